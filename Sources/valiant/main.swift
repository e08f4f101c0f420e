import Glibc
import Valiant

exit(run(arguments: Array(CommandLine.arguments.dropFirst())))
