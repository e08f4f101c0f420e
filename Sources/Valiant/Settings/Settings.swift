/// How a server is to run. The defaults are those of the program started without arguments.
///
/// Each property belongs to one row in `Setting.all`, which gives it its name in the configuration
/// file, on the command line and in CONFIG GET and SET.
public struct Settings: Sendable, Equatable {
  /// Addresses or names to listen on. One with `-` in front may be missing on this machine. Empty:
  /// no TCP at all.
  public var bind = ["127.0.0.1", "-::1"]
  /// TCP port, 0...65535; 0 lets the system choose a free one.
  public var port = 4200
  /// Path of a unix socket to listen on as well; empty for none.
  public var unixSocket = ""
  /// Permissions of the unix socket's file, 0...0o777; 0 leaves them to the umask.
  public var unixSocketPermissions = 0
  /// Event loops, each with a thread of its own, 1...256; 0 for one per processor that the process
  /// may use.
  public var threads = 0
  /// Most clients at once, 1...1,000,000; further ones get an error.
  public var maxClients = 10_000
  /// Seconds without a request after which a client is closed; 0 for never.
  public var timeoutSeconds = 0
  /// Seconds of silence after which a peer is asked whether it is still there; 0 for never.
  public var keepaliveSeconds = 300
  /// Connections that may wait to be accepted, 1...65,535; the kernel has a limit of its own.
  public var backlog = 511
  /// Password that clients must give with AUTH or HELLO before anything else; empty for none.
  public var password = ""
  /// Refuse clients from other machines as long as there is neither a password nor a `bind`.
  public var isProtected = true
  /// Longest argument of a request in bytes, 1 MiB...512 MiB.
  public var bulkLengthMaxBytes = 512 << 20
  /// Most bytes of an unfinished request, 1 MiB...4 GiB - 16 MiB; a client above it is closed.
  public var queryBufferMaxBytes = 1 << 30
  /// Most unsent output of a client.
  public var outputLimit = OutputLimit()
  /// The same for a client that listens to channels.
  public var subscriberOutputLimit = OutputLimit(
    hardBytes: 32 << 20, softBytes: 8 << 20, softSeconds: 60)
  /// The same for replicas, of which there are none yet.
  var replicaOutputLimit = OutputLimit(hardBytes: 256 << 20, softBytes: 64 << 20, softSeconds: 60)
  /// Most memory that keys and values may take; see `evictionPolicy` for what happens then.
  public var maxMemory = MemoryLimit()
  /// Which keys go when `maxMemory` is reached.
  var evictionPolicy = EvictionPolicy.none
  /// Most memory that the buffers of all clients together may take; a part is one of `maxMemory`.
  public var maxMemoryClients = MemoryLimit()
  /// How slowly the counters of the LFU policies grow, 0...1,000,000.
  var lfuLogFactor = 10
  /// Minutes in which a counter of the LFU policies loses one, 0...1,000,000; 0 for never.
  var lfuDecayMinutes = 1
  /// Who may use DEBUG.
  var debugCommand = DebugPermission.no
  /// Bytes above which a HyperLogLog gets six bits for each register, 0 or more.
  var hyperLogLogSparseMaxBytes = 3000
  /// Keys whose readers are remembered at most, because they have copies; 0 for any number.
  var trackedKeysMax = 1_000_000
  /// For which a script may run that has changed nothing; 0 for any time.
  var scriptMilliseconds = 5000
  /// Which events of keys are published.
  var keyspaceEvents: KeyspaceEvents = []
  /// The folder in which keys are kept; empty for none. The program takes `$STATE_DIRECTORY`, or
  /// where it was started.
  public var directory = ""
  /// Name of the snapshot's file there.
  public var fileName = "dump.rdb"
  /// When snapshots are written without being asked for; none means that keys are not kept, unless
  /// somebody asks for it.
  public var saveRules = [
    SaveRule(seconds: 3600, changes: 1), SaveRule(seconds: 300, changes: 100),
    SaveRule(seconds: 60, changes: 10_000),
  ]
  /// Whether strings in snapshots are compressed.
  public var compressesSnapshots = true
  /// Whether snapshots have a checksum.
  public var checksumsSnapshots = true
  /// Whether keys cannot be changed as long as snapshots cannot be written.
  public var refusesWritesUnsaved = true
  /// Whether changes are written to an append log in `directory`.
  public var appendsToLog = false
  /// When they are forced onto the disk.
  var syncPolicy = SyncPolicy.everysec
  /// Name of the append log's folder in `directory`.
  public var logFolder = "appendonlydir"
  /// With what the names of its files begin.
  public var logName = "appendonly.aof"
  /// By how many percent it grows before it is written anew; 0 for never.
  public var logGrowthPercent = 100
  /// Bytes that it has then at least.
  public var logRewriteMinBytes = 64 << 20
  /// Whether a log whose end is missing is taken for what there is of it.
  public var loadsTornLog = true
  /// Events below this level are not logged.
  var logLevel = LogLevel.notice
  /// Whether anything is logged to standard error. The program logs; an embedded server need not.
  public var logsToStandardError = false

  public init() {}

  /// The limit that holds for a client.
  func outputLimit(ofSubscriber isSubscriber: Bool) -> OutputLimit {
    isSubscriber ? subscriberOutputLimit : outputLimit
  }

  /// Most bytes that the buffers of all clients together may take; `Int.max` for no limit.
  var clientBytesMax: Int {
    let limit =
      maxMemoryClients.percent.map { maxMemory.bytes / 100 * $0 } ?? maxMemoryClients.bytes
    return limit == 0 ? Int.max : limit
  }

  /// How uses of entries are noted from `now` on.
  func accessTracking(at now: Timestamp) -> AccessTracking {
    AccessTracking(
      evictionPolicy.tracking, now: now, logFactor: lfuLogFactor, decayMinutes: lfuDecayMinutes)
  }

  /// A number of bytes, or a part of the memory that the process may use.
  public struct MemoryLimit: Sendable, Equatable {
    /// Bytes; 0 for no limit.
    public private(set) var bytes = 0
    /// The part it was given as, 1...100; nil for a number of bytes.
    public private(set) var percent: Int?

    /// No limit.
    public init() {}

    /// - Parameter bytes: 0 or more; 0 for no limit.
    public init(bytes: Int) {
      precondition(bytes >= 0, "a negative limit")
      self.bytes = bytes
    }

    /// A part of the machine's memory, or of what the control groups leave of it.
    ///
    /// - Parameter percent: 1...100.
    public init(percent: Int) {
      precondition((1...100).contains(percent), "no part of the memory")
      self.percent = percent
      bytes = ProcessUsage.availableBytes / 100 * percent
    }
  }

  /// A snapshot is written so many seconds after the last one, if there have been so many changes.
  public struct SaveRule: Sendable, Equatable {
    /// 1 or more.
    public var seconds: Int
    /// 0 or more.
    public var changes: Int

    public init(seconds: Int, changes: Int) {
      self.seconds = seconds
      self.changes = changes
    }
  }

  /// Who may use DEBUG: nobody, all, or clients of the same machine.
  enum DebugPermission: String, CaseIterable, Sendable {
    case no, yes, local
  }

  /// When a client that does not read its replies is closed.
  ///
  /// A client's requests are no longer processed while 1 MiB of its replies is unsent, so output
  /// grows beyond that by one reply at most.
  public struct OutputLimit: Sendable, Equatable {
    /// Unsent bytes at which it is closed at once; 0 for no such limit.
    public var hardBytes = 1 << 30
    /// Unsent bytes at which it is closed when it has read nothing for `softSeconds`; 0 for no
    /// such limit.
    public var softBytes = 1 << 20
    /// Seconds without progress above `softBytes`.
    public var softSeconds = 60

    public init() {}

    /// - Parameters: 0 for no limit.
    public init(hardBytes: Int, softBytes: Int, softSeconds: Int) {
      self.hardBytes = hardBytes
      self.softBytes = softBytes
      self.softSeconds = softSeconds
    }
  }
}
