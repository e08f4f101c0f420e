import Glibc

@testable import Valiant

/// Feeds the readers of snapshots, append logs and manifests with what libFuzzer makes up.
///
/// What is loaded has to be a store that holds together, and the same when it is saved and loaded again.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzFiles(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard let start = unsafe start, count > 0 else { return 0 }
  let input = unsafe [UInt8](UnsafeBufferPointer(start: start, count: count))
  write(input)
  let store = Store()
  if (try? store.load(from: path)) != nil {
    store.checkInvariants()
    let keys = store.census().keys
    guard (try? store.save(to: path)) != nil else { fatalError("it cannot be saved") }
    let copy = Store()
    guard (try? copy.load(from: path)) != nil else { fatalError("what was saved cannot be loaded") }
    precondition(copy.census().keys == keys, "keys have got lost")
    write(input)
  }
  _ = try? FileCheck.run(path)
  if let manifest = try? LogManifest(String(decoding: input, as: UTF8.self)) {
    guard let again = try? LogManifest(manifest.text) else { fatalError("not its own manifest") }
    precondition(again == manifest, "another manifest")
  }
  return 0
}

/// In memory, and of this process alone.
private let path = "/dev/shm/valiant-fuzz-\(getpid())"

private func write(_ bytes: [UInt8]) {
  let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
  precondition(descriptor >= 0, "no file can be made")
  let written = unsafe bytes.withUnsafeBytes {
    unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
  }
  precondition(written == bytes.count, "no room for a file")
  close(descriptor)
}
