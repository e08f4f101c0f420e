@testable import Valiant
