// swift-tools-version: 6.2
import PackageDescription

let settings: [SwiftSetting] = [
  .strictMemorySafety(),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .treatAllWarnings(as: .error),
]

let package = Package(
  name: "Valiant",
  products: [
    .library(name: "Valiant", targets: ["Valiant"]),
    .executable(name: "valiant", targets: ["valiant"]),
  ],
  targets: [
    .systemLibrary(name: "CLibUV", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
    .systemLibrary(name: "CLZF", pkgConfig: "liblzf", providers: [.apt(["liblzf-dev"])]),
    .systemLibrary(name: "CLibMD", pkgConfig: "libmd", providers: [.apt(["libmd-dev"])]),
    .systemLibrary(
      name: "CLua", pkgConfig: "lua5.1",
      providers: [.apt(["liblua5.1-0-dev", "lua-cjson-dev", "lua-bitop-dev"])]),
    .target(
      name: "Valiant", dependencies: ["CLibUV", "CLZF", "CLibMD", "CLua"],
      swiftSettings: settings),
    .executableTarget(name: "valiant", dependencies: ["Valiant"], swiftSettings: settings),
    .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: settings),
    .testTarget(
      name: "ValiantTests", dependencies: ["Valiant", "TestSupport"], swiftSettings: settings),
    .testTarget(
      name: "ValiantSystemTests", dependencies: ["valiant", "TestSupport"],
      exclude: ["count.c", "noremap.c"],
      swiftSettings: settings),
    // Linked by Tests/fuzz/run.sh with libFuzzer's own main function.
    .target(
      name: "ParserFuzz", dependencies: ["Valiant"], path: "Tests/fuzz/ParserFuzz",
      swiftSettings: settings),
    .target(
      name: "FileFuzz", dependencies: ["Valiant"], path: "Tests/fuzz/FileFuzz",
      swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6]
)
