import Glibc

/// Puts the parts together: commands over a server, and the program around both.

extension Server {
  /// A server that is ready to be started.
  ///
  /// - Parameters:
  ///   - settings: Where to listen and within which limits; `port` 0 lets the system choose one.
  ///   - store: The keys to serve; a new, empty store if none is given.
  public convenience init(settings: Settings = Settings(), store: Store = Store()) {
    self.init(
      settings: settings, store: store, commandNames: CommandTable.shared.names,
      makeReader: { server, worker in
        let box = DispatcherBox(server: server, worker: worker)
        return { connection, bytes in box.process(connection, bytes) }
      },
      makeReplayer: { Replayer(server: $0, workers: $1) })
  }
}

/// Gives a dispatcher an address that does not change.
///
/// Invariant: `pointer` is initialised from `init` to `deinit`; its loop's thread alone uses it.
@safe private final class DispatcherBox {
  private let pointer: UnsafeMutablePointer<Dispatcher>

  init(server: Server, worker: Worker) {
    unsafe pointer = .allocate(capacity: 1)
    unsafe pointer.initialize(to: Dispatcher(server: server, worker: worker))
  }

  deinit {
    unsafe pointer.deinitialize(count: 1)
    unsafe pointer.deallocate()
  }

  @inline(__always)
  func process(_ connection: Connection, _ bytes: Bytes) -> Int {
    unsafe pointer.pointee.process(connection, bytes)
  }
}

/// What the program ends with.
private enum ExitStatus {
  static let stopped: Int32 = 0
  /// An address is taken, or the system refuses something.
  static let cannotRun: Int32 = 1
  /// A mistake in flags or configuration, or a damaged snapshot: starting again would not help.
  static let badConfiguration: Int32 = 2
}

/// Runs the program `valiant`: reads its arguments, serves until it is told to stop.
///
/// - Parameter arguments: Without the program's own name.
/// - Returns: The process's exit status: 0 after SIGTERM, SIGINT or SHUTDOWN; 1 when an address is
///   taken or the system refuses something; 2 for a mistake in the arguments or the configuration, or
///   a snapshot that cannot be read.
public func run(arguments: [String]) -> Int32 {
  let invocation: Invocation
  let settings: Settings
  do throws(StartError) {
    switch try Invocation.parse(arguments) {
    case .help:
      Log.writeAll(Invocation.help, to: STDOUT_FILENO)
      return ExitStatus.stopped
    case .version:
      Log.writeAll("Valiant \(Version.valiant)\n", to: STDOUT_FILENO)
      return ExitStatus.stopped
    case .print(let what):
      Log.writeAll(try documentation(what), to: STDOUT_FILENO)
      return ExitStatus.stopped
    case .check(let path):
      do throws(LogError) {
        Log.writeAll(try FileCheck.run(path), to: STDOUT_FILENO)
        return ExitStatus.stopped
      } catch {
        Log(level: .notice).warning("\(error)")
        return ExitStatus.cannotRun
      }
    case .serve(let given):
      invocation = given
      settings = try given.settings()
    }
  } catch {
    Log(level: .notice).warning("\(error)")
    return ExitStatus.badConfiguration
  }
  unblockSignals()
  let server = Server(settings: settings)
  logStateFile(invocation, server.log)
  let configuration = Configuration(invocation, saying: settings)
  server.setConfiguration(configuration)
  let manager = ServiceManager()
  do throws(Server.StartFailure) {
    try server.start(under: manager) { worker in
      let reload = { reloadSettings(configuration, of: server) }
      if manager.isPresent {
        let supervision = Supervision(server: server, manager: manager)
        worker.every(milliseconds: supervision.interval) { supervision.report() }
        worker.onSignal(SIGHUP) { supervision.reload(reload) }
      } else {
        worker.onSignal(SIGHUP, reload)
      }
      for (number, name) in [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT")] {
        worker.onSignal(number) {
          if let problem = server.savingProblem(nil) {
            return server.log.warning("not shutting down at \(name): \(problem)")
          }
          server.log.notice("shutting down: \(name)")
          server.requestStop()
        }
      }
    }
  } catch {
    server.log.warning("\(error)")
    return error.isMisconfiguration ? ExitStatus.badConfiguration : ExitStatus.cannotRun
  }
  let threads = server.workers.count
  server.log.notice(
    "Valiant \(Version.valiant) ready on \(server.addresses.joined(separator: ", ")) with \(threads) \(threads == 1 ? "thread" : "threads")"
  )
  manager.ready(status: server.statusText, waits: true)
  ProcessUsage.releaseCode()
  server.waitUntilStopped()
  server.log.notice("stopped")
  // The process ends: the kernel takes all memory at once, while freeing key by key takes seconds for
  // millions of them.
  _ = unsafe Unmanaged.passRetained(server.store)
  return ExitStatus.stopped
}

/// Lets the signals through that end or reload the server: whoever started it may have blocked them.
private func unblockSignals() {
  var signals = sigset_t()
  unsafe sigemptyset(&signals)
  for number in [SIGTERM, SIGINT, SIGHUP] { unsafe sigaddset(&signals, number) }
  unsafe sigprocmask(SIG_UNBLOCK, &signals, nil)
}

/// A piece of documentation, by its name.
private func documentation(_ what: String) throws(StartError) -> String {
  if what == "commands" { return CommandDocs.table }
  if let text = Manual.text(what) { return text }
  throw StartError("--print needs one of \(Manual.names.joined(separator: ", "))")
}

/// SIGHUP: reads the configuration again and applies what has changed in it.
///
/// What CONFIG SET changed stays, unless the sources say something new about it.
private func reloadSettings(_ configuration: Configuration, of server: Server) {
  let changes: [Configuration.Change]
  do throws(StartError) {
    changes = try configuration.reload()
  } catch {
    server.log.warning("configuration not reloaded, nothing changed: \(error)")
    return
  }
  let source = configuration.invocation.file ?? "the command line"
  if changes.isEmpty { server.log.notice("reloaded \(source): unchanged") }
  for change in changes {
    let setting = change.setting
    let words = setting.isSecret ? "changed" : "'\(change.old)' is now '\(change.new)'"
    if setting.change == .anyTime {
      server.changeSettings { settings in
        try? setting.read(change.new, into: &settings)
        return []
      }
      server.log.notice("reloaded \(source): \(setting.name) \(words)")
    } else {
      server.log.warning("reloaded \(source): \(setting.name) \(words), after a restart")
    }
  }
  logStateFile(configuration.invocation, server.log)
}

/// Says which settings do not come from the configuration file, where one would look for them.
private func logStateFile(_ invocation: Invocation, _ log: Log) {
  guard let stateFile = invocation.stateFile, let file = invocation.file,
    let names = try? invocation.namesInStateFile(), !names.isEmpty
  else { return }
  log.notice(
    "\(stateFile), written by CONFIG REWRITE, wins over \(file): \(names.joined(separator: ", "))")
}
