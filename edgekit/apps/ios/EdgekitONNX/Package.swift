// swift-tools-version:5.9
// Bundles of target onnx, by ONNX Runtime's C interface.
import PackageDescription

#if os(Linux)
    // The library of the system, or of a Python wheel: swift build -Xlinker -L FOLDER
    let runtime: [Package.Dependency] = []
    let product: [Target.Dependency] = []
    let link: [LinkerSetting] = [.linkedLibrary("onnxruntime")]
#else
    let runtime: [Package.Dependency] = [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")
    ]
    let product: [Target.Dependency] = [
        .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
    ]
    let link: [LinkerSetting] = []
#endif

let package = Package(
    name: "EdgekitONNX",
    platforms: [.iOS("17.0"), .macOS("14.0")],
    products: [.library(name: "EdgekitONNX", targets: ["EdgekitONNX"])],
    dependencies: [.package(path: "../Edgekit")] + runtime,
    targets: [
        .target(name: "COnnxRuntime", dependencies: product, linkerSettings: link),
        .target(
            name: "EdgekitONNX",
            dependencies: ["COnnxRuntime", .product(name: "EdgekitCore", package: "Edgekit")]),
        .testTarget(
            name: "EdgekitONNXTests",
            dependencies: ["EdgekitONNX", .product(name: "EdgekitCore", package: "Edgekit")]),
    ]
)
