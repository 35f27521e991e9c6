// swift-tools-version:5.9
// Bundles of target gguf, by llama.cpp and its mtmd.
//
// On Apple's systems: the framework that llama.cpp builds with build-xcframework.sh, laid beside this file as
// llama.xcframework, with mtmd in it. Elsewhere the headers and libraries of an installed llama.cpp.
import PackageDescription

#if os(Linux)
    let framework: [Target] = []
    let needs: [Target.Dependency] = []
    let link: [LinkerSetting] = [.linkedLibrary("llama"), .linkedLibrary("mtmd")]
#else
    let framework: [Target] = [.binaryTarget(name: "llama", path: "llama.xcframework")]
    let needs: [Target.Dependency] = ["llama"]
    let link: [LinkerSetting] = []
#endif

let package = Package(
    name: "EdgekitLlama",
    platforms: [.iOS("17.0"), .macOS("14.0")],
    products: [.library(name: "EdgekitLlama", targets: ["EdgekitLlama"])],
    dependencies: [.package(path: "../Edgekit")],
    targets: framework + [
        .target(name: "CLlama", dependencies: needs, linkerSettings: link),
        .target(
            name: "EdgekitLlama",
            dependencies: ["CLlama", .product(name: "EdgekitCore", package: "Edgekit")]),
        .testTarget(
            name: "EdgekitLlamaTests",
            dependencies: ["EdgekitLlama", .product(name: "EdgekitCore", package: "Edgekit")]),
    ]
)
