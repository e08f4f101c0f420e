/// What a command can answer instead of a result.
///
/// The texts are those of Redis, on which clients match; each is written once, here.
enum CommandError: Error {
  case wrongType
  case outOfMemory
  case aboveMemoryMax
  /// Not an answer: the command is to be run again when there is room for so many bytes.
  case needsRoom(Int)
  case tooLong
  case offsetOutOfRange
  case bitOffset
  case bitValue
  case bitArgument
  case bitOperationNot
  case bitFieldType
  case bitFieldOverflow
  case bitFieldReadOnly
  case invalidCursor
  case keyExists
  case sameObject
  case invalidDatabase(String)
  case invalidTimeToLive
  case invalidIdleTime
  case invalidFrequency
  case badPayload
  case noReplication
  case noReplica
  case unrecognizedReplicaOption([UInt8])
  case invalidMasterPort
  case debugNotAllowed
  case notInOldProtocol
  case unknownProtocolType
  case timeoutNotAnInteger
  case timeoutNegative
  case unblockReason
  case pauseMode
  case prefixWithoutBroadcast
  case broadcastSwitch
  case broadcastWithOptions
  case optInAndOut
  case optSwitch
  case prefixesOverlap([UInt8], isOld: Bool, [UInt8])
  case redirectTwice
  case redirectUnknown
  case cachingWithoutTracking
  case cachingMode(String, needs: String)
  case notAHyperLogLog
  case corruptHyperLogLog
  case onlyWhileSubscribed(String)
  case shardSubscriptionInTransaction
  case nestedTransaction
  case noTransaction(String)
  case watchInTransaction
  case notInTransaction
  case transactionAborted
  case transactionRefused([UInt8])
  case transactionTooLong
  case lengthAndIndices
  case subsequenceTooLarge
  case noMemoryForSubsequence
  case badData
  case frequencyNotTracked
  case idleTimeNotTracked
  case syntax
  case notAFloat
  case incrementOverflow
  case decrementOverflow
  case incrementNotFinite
  case noSuchKey
  case expireOptionsExclusive
  case expireOrderExclusive
  case unsupportedOption([UInt8])
  case notAnInteger
  case notAnInteger32
  case databaseOutOfRange
  case invalidExpireTime(command: String)
  case unknownCommand(name: [UInt8], arguments: [UInt8])
  case unknownSubcommand(name: [UInt8], container: String)
  case subcommandSyntax(name: [UInt8], container: String)
  case arity(command: String)
  case notAuthenticated
  case helloNotAuthenticated
  case wrongPassword
  case noPasswordSet
  case unsupportedProtocol
  case protocolNotAnInteger
  case helloOption([UInt8])
  case invalidClientName
  case invalidLibraryField(String)
  case invalidClientID
  case clientIDNotPositive
  case noSuchClient
  case unknownClientType([UInt8])
  case noSuchUser([UInt8])
  case unrecognizedOption([UInt8])
  case invalidCommand
  case noKeys
  case wrongArgumentsForCommand
  case unknownSetting([UInt8])
  case settingFailed([UInt8], reason: String)
  case noSettingsFile
  case rewriteFailed(String)
  case noShutdown
  case cannotShutDown
  case loading
  case cannotSave
  case isSaving
  case cannotLog(String)
  case isRewritingLog
  case anotherSaving
  case outOfRange(Int, Int)
  case noLogToWaitFor
  case notATimeout
  case negativeTimeout
  case savingFailed
  case savingImpossible(String)
  /// About a script, in words that nobody matches on.
  case script(String)
  case scriptCompilation([UInt8])
  case noScript
  case noScriptRuns
  case scriptHasWritten
  case scriptOutOfMemory

  /// The error's whole text, from its code on.
  var message: [UInt8] {
    switch self {
    case .unknownCommand(let name, let arguments):
      return "ERR unknown command '".utf8 + name + "', with args beginning with: ".utf8 + arguments
    case .unknownSubcommand(let name, let container):
      return "ERR unknown subcommand '".utf8 + name + "'. Try \(container.uppercased()) HELP.".utf8
    case .subcommandSyntax(let name, let container):
      return "ERR unknown subcommand or wrong number of arguments for '".utf8 + name
        + "'. Try \(container) HELP.".utf8
    case .helloOption(let option):
      return "ERR Syntax error in HELLO option '".utf8 + option + "'".utf8
    case .unknownClientType(let type):
      return "ERR Unknown client type '".utf8 + type + "'".utf8
    case .savingImpossible(let why), .script(let why): return Array("ERR \(why)".utf8)
    case .scriptCompilation(let why):
      return "ERR Error compiling script (new function): ".utf8 + why
    case .outOfRange(let least, let most):
      return Array("ERR value is out of range, must be between \(least) and \(most)".utf8)
    case .cannotLog(let why):
      return Array("MISCONF Errors writing to the AOF file: \(why)".utf8)
    case .unrecognizedReplicaOption(let option):
      return "ERR Unrecognized REPLCONF option: ".utf8 + option
    case .noSuchUser(let name):
      return "ERR No such user '".utf8 + name + "'".utf8
    case .unrecognizedOption(let option):
      return "ERR Unrecognized option '".utf8 + option + "'".utf8
    case .unsupportedOption(let option):
      // Redis shows what stands in front of a zero byte.
      return "ERR Unsupported option ".utf8 + Array(option.prefix { $0 != 0 })
    case .prefixesOverlap(let prefix, let isOld, let other):
      return "ERR Prefix '".utf8 + prefix
        + "' overlaps with \(isOld ? "an existing" : "another provided") prefix '".utf8 + other
        + "'. Prefixes for a single client must not overlap.".utf8
    case .transactionRefused(let reason):
      return "EXECABORT Transaction discarded because of: ".utf8 + reason
    case .settingFailed(let name, let reason):
      return "ERR CONFIG SET failed (possibly related to argument '".utf8 + name
        + "') - \(reason)".utf8
    case .unknownSetting(let name):
      return "ERR Unknown option or number of arguments for CONFIG SET - '".utf8 + name + "'".utf8
    default:
      return Array(text.utf8)
    }
  }

  /// What EXEC answers when it is refused for this reason.
  var refusingTransaction: CommandError {
    let reason = message
    let code = Array("ERR ".utf8)
    return .transactionRefused(reason.starts(with: code) ? Array(reason.dropFirst(4)) : reason)
  }

  private var text: String {
    switch self {
    case .wrongType: "WRONGTYPE Operation against a key holding the wrong kind of value"
    case .outOfMemory: "OOM the system has no memory left; nothing was changed"
    case .tooLong: "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    case .offsetOutOfRange: "ERR offset is out of range"
    case .bitOffset: "ERR bit offset is not an integer or out of range"
    case .bitValue: "ERR bit is not an integer or out of range"
    case .bitArgument: "ERR The bit argument must be 1 or 0."
    case .bitOperationNot: "ERR BITOP NOT must be called with a single source key."
    case .bitFieldType:
      "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but "
        + "i64 is."
    case .bitFieldOverflow: "ERR Invalid OVERFLOW type specified"
    case .bitFieldReadOnly: "ERR BITFIELD_RO only supports the GET subcommand"
    case .invalidCursor: "ERR invalid cursor"
    case .keyExists: "BUSYKEY Target key name already exists."
    case .sameObject: "ERR source and destination objects are the same"
    case .invalidDatabase(let which): "ERR invalid \(which) DB index"
    case .invalidTimeToLive: "ERR Invalid TTL value, must be >= 0"
    case .invalidIdleTime: "ERR Invalid IDLETIME value, must be >= 0"
    case .invalidFrequency: "ERR Invalid FREQ value, must be >= 0 and <= 255"
    case .badPayload: "ERR DUMP payload version or checksum are wrong"
    case .badData: "ERR Bad data format"
    case .lengthAndIndices:
      "ERR If you want both the length and indexes, please just use IDX."
    case .subsequenceTooLarge:
      "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"
    case .noMemoryForSubsequence:
      "ERR Insufficient memory, failed allocating transient memory for LCS"
    case .shardSubscriptionInTransaction:
      "ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client"
    case .nestedTransaction: "ERR MULTI calls can not be nested"
    case .noTransaction(let command): "ERR \(command) without MULTI"
    case .watchInTransaction: "ERR WATCH inside MULTI is not allowed"
    case .notInTransaction: "ERR Command not allowed inside a transaction"
    case .transactionAborted:
      "EXECABORT Transaction discarded because of previous errors."
    case .transactionTooLong: "ERR the commands of a transaction must not exceed 4 GiB"
    case .onlyWhileSubscribed(let command):
      "ERR Can't execute '\(command)': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
        + "RESET are allowed in this context"
    case .notAHyperLogLog: "WRONGTYPE Key is not a valid HyperLogLog string value."
    case .corruptHyperLogLog: "INVALIDOBJ Corrupted HLL object detected"
    case .invalidMasterPort: "ERR Invalid master port"
    case .noReplication:
      "ERR REPLICAOF is not supported: this server has no replicas and is none. NO ONE is possible."
    case .noReplica:
      "ERR SYNC sends a snapshot to who has said REPLCONF rdb-only 1, and nothing behind it"
    case .debugNotAllowed:
      "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you "
        + "can run it from a local connection, otherwise you need to set this option in the "
        + "configuration file, and then restart the server."
    case .notInOldProtocol: "ERR RESP2 is not supported by this command"
    case .unknownProtocolType:
      "ERR Wrong protocol type name. Please use one of the following: "
        + "string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false"
    case .timeoutNotAnInteger: "ERR timeout is not an integer or out of range"
    case .timeoutNegative: "ERR timeout is negative"
    case .prefixWithoutBroadcast: "ERR PREFIX option requires BCAST mode to be enabled"
    case .broadcastSwitch:
      "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then "
        + "re-enabling it with a different mode."
    case .broadcastWithOptions: "ERR OPTIN and OPTOUT are not compatible with BCAST"
    case .optInAndOut: "ERR You can't specify both OPTIN mode and OPTOUT mode"
    case .optSwitch:
      "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then "
        + "re-enabling it with a different mode."
    case .redirectTwice: "ERR A client can only redirect to a single other client"
    case .redirectUnknown: "ERR The client ID you want redirect to does not exist"
    case .cachingWithoutTracking:
      "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or "
        + "OPTOUT mode enabled"
    case .cachingMode(let answer, let mode):
      "ERR CLIENT CACHING \(answer) is only valid when tracking is enabled in \(mode) mode."
    case .pauseMode: "ERR CLIENT PAUSE mode must be WRITE or ALL"
    case .unblockReason: "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"
    case .aboveMemoryMax, .needsRoom: "OOM command not allowed when used memory > 'maxmemory'."
    case .frequencyNotTracked:
      "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note "
        + "that when switching between policies at runtime LRU and LFU data will take some time "
        + "to adjust."
    case .idleTimeNotTracked:
      "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when "
        + "switching between policies at runtime LRU and LFU data will take some time to adjust."
    case .syntax: "ERR syntax error"
    case .notAnInteger: "ERR value is not an integer or out of range"
    case .notAnInteger32:
      "ERR value is out of range, value must between -2147483648 and 2147483647"
    case .databaseOutOfRange: "ERR DB index is out of range"
    case .invalidExpireTime(let command): "ERR invalid expire time in '\(command)' command"
    case .notAFloat: "ERR value is not a valid float"
    case .incrementOverflow: "ERR increment or decrement would overflow"
    case .decrementOverflow: "ERR decrement would overflow"
    case .incrementNotFinite: "ERR increment would produce NaN or Infinity"
    case .noSuchKey: "ERR no such key"
    case .expireOptionsExclusive:
      "ERR NX and XX, GT or LT options at the same time are not compatible"
    case .expireOrderExclusive: "ERR GT and LT options at the same time are not compatible"
    case .arity(let command): "ERR wrong number of arguments for '\(command)' command"
    case .notAuthenticated: "NOAUTH Authentication required."
    case .helloNotAuthenticated:
      "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH "
        + "<user> <pass> option can be used to authenticate the client and select the RESP "
        + "protocol version at the same time"
    case .wrongPassword: "WRONGPASS invalid username-password pair or user is disabled."
    case .noPasswordSet:
      "ERR AUTH <password> called without any password configured for the default user. "
        + "Are you sure your configuration is correct?"
    case .unsupportedProtocol: "NOPROTO unsupported protocol version"
    case .protocolNotAnInteger: "ERR Protocol version is not an integer or out of range"
    case .invalidClientName:
      "ERR Client names cannot contain spaces, newlines or special characters."
    case .invalidLibraryField(let field):
      "ERR \(field) cannot contain spaces, newlines or special characters."
    case .invalidClientID: "ERR Invalid client ID"
    case .clientIDNotPositive: "ERR client-id should be greater than 0"
    case .noSuchClient: "ERR No such client"
    case .invalidCommand: "ERR Invalid command specified"
    case .noKeys: "ERR The command has no key arguments"
    case .wrongArgumentsForCommand: "ERR Invalid number of arguments specified for command"
    case .noSettingsFile: "ERR The server is running without a config file"
    case .rewriteFailed(let reason): "ERR Rewriting config file: \(reason)"
    case .noShutdown: "ERR No shutdown in progress."
    case .cannotShutDown: "ERR Errors trying to SHUTDOWN. Check logs."
    case .loading: "LOADING Redis is loading the dataset in memory"
    case .cannotSave:
      """
      MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. \
      Commands that may modify the data set are disabled, because this instance is configured to \
      report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). \
      Please check the Redis logs for details about the RDB error.
      """
    case .savingFailed: "ERR"
    case .noScript: "NOSCRIPT No matching script. Please use EVAL."
    case .noScriptRuns: "NOTBUSY No scripts in execution right now."
    case .scriptHasWritten:
      """
      UNKILLABLE Sorry the script already executed write commands against the dataset. You can either \
      wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.
      """
    case .scriptOutOfMemory:
      "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'"
    case .isSaving: "ERR Background save already in progress"
    case .isRewritingLog: "ERR Background append only file rewriting already in progress"
    case .anotherSaving:
      """
      ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in \
      order to schedule a BGSAVE whenever possible.
      """
    case .noLogToWaitFor:
      "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
    case .notATimeout: "ERR timeout is not an integer or out of range"
    case .negativeTimeout: "ERR timeout is negative"
    case .savingImpossible, .script, .scriptCompilation, .cannotLog, .outOfRange,
      .unrecognizedReplicaOption, .unknownCommand,
      .unknownSubcommand,
      .subcommandSyntax, .helloOption,
      .unknownClientType,
      .noSuchUser, .prefixesOverlap, .unrecognizedOption, .unsupportedOption, .unknownSetting,
      .settingFailed,
      .transactionRefused:
      preconditionFailure("has bytes of the client in it")
    }
  }
}

private func + (left: String.UTF8View, right: [UInt8]) -> [UInt8] { Array(left) + right }
