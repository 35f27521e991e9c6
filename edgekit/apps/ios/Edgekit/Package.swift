// swift-tools-version:5.9
// A bundle of edgekit in an app: the core, which needs nothing, and the adapters of Apple's own runtimes.
import PackageDescription

let package = Package(
    name: "Edgekit",
    platforms: [.iOS("17.0"), .macOS("14.0")],
    products: [
        .library(name: "EdgekitCore", targets: ["EdgekitCore"]),
        .library(name: "EdgekitCoreML", targets: ["EdgekitCoreML"]),
        .library(name: "EdgekitCoreAI", targets: ["EdgekitCoreAI"]),
    ],
    targets: [
        .target(name: "EdgekitCore"),
        .target(name: "EdgekitCoreML", dependencies: ["EdgekitCore"]),
        .target(name: "EdgekitCoreAI", dependencies: ["EdgekitCore"]),
        .testTarget(name: "EdgekitCoreTests", dependencies: ["EdgekitCore"]),
    ]
)
