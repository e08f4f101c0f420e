import Valiant
