import Glibc
import Synchronization

/// Sends a client a snapshot of this moment: what SYNC answers, for `redis-cli --rdb`.
///
/// The snapshot is written to a file without a name first, so that a slow client holds up nobody; a thread
/// of its own sends it, beside the client's loop, which leaves the connection alone meanwhile.
final class SnapshotTransfer: Sendable {
  private let cancelled = Atomic<Bool>(false)
  private let snapshot = Guarded(Snapshot?.none)
  private let client: Int
  private let worker: Int

  private static let pieceBytes = 64 * 1024

  init(client: Int, worker: Int) {
    self.client = client
    self.worker = worker
  }

  /// Has it end, for the client has gone.
  func cancel() {
    cancelled.store(true, ordering: .relaxed)
    snapshot.withLock { $0?.cancel() }
  }

  private var isCancelled: Bool { cancelled.load(ordering: .relaxed) }

  /// Begins. The descriptor, of the client's socket, is closed in the end.
  ///
  /// - Returns: False when the system has no thread for it; then nothing has happened.
  func begin(on server: Server, descriptor: Int32) -> Bool {
    Background.start { [self] _ in
      do throws(FileError) {
        try send(write(on: server), to: descriptor)
        server.log.notice("sent a snapshot to client \(client)")
        close(descriptor)
        server.closeWaiting(client, on: worker)
      } catch {
        close(descriptor)
        if isCancelled { return server.closeWaiting(client, on: worker) }
        server.log.warning("sending a snapshot to client \(client): \(error)")
        let text = Array("ERR \(error)".utf8)
        server.finishWaiting(client, on: worker, false) { $0.error(text) }
      }
    }
  }

  /// A file with the snapshot, which nobody else can find any more.
  private func write(on server: Server) throws(FileError) -> InputFile {
    let settings = server.settings
    let path = "\(settings.directory)/\(settings.fileName).sync\(client)"
    while !isCancelled {
      guard let snapshot = Snapshot(of: server.store) else {
        // Another one is being written.
        Clock.sleep(microseconds: 10_000)
        continue
      }
      self.snapshot.withLock { $0 = snapshot }
      defer { self.snapshot.withLock { $0 = nil } }
      if isCancelled { snapshot.cancel() }
      _ = try snapshot.write(
        to: path, server.saving.options(settings), facts: Saving.facts(of: server, isBase: false),
        pause: Saving.courtesy(on: server))
      defer { unsafe unlink(path) }
      return try InputFile(path)
    }
    throw FileError(number: ECANCELED, "the client has gone")
  }

  private func send(_ file: InputFile, to descriptor: Int32) throws(FileError) {
    var buffer = ByteBuffer()
    buffer.append(line: UInt8(ascii: "$"), file.size)
    repeat {
      guard Socket.sendAll(buffer.bytes, to: descriptor, unless: { isCancelled }) else {
        cancel()
        throw FileError(number: ECANCELED, "the client has gone")
      }
      buffer.truncate(to: 0)
    } while try file.read(Self.pieceBytes, into: &buffer) > 0
  }
}
