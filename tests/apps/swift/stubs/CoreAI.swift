// NOT Apple's SDK: only the declarations that EdgekitCoreAI uses, so that the adapter's types can be checked where there
// is no Xcode. Nothing here runs. They were read from Apple's own code that calls them, in its repository
// apple/coreai-models (BSD-3-Clause), below swift/Sources, at the file that each names. Span is the standard library's own
// since Swift 6.2.
import Foundation

/// CoreAIDiffusionPipeline/Components/CoreAIDiffusionModelFunction.swift
public struct AIModel {
    public init(contentsOf url: URL) async throws { fatalError() }
    public func loadFunction(named name: String) throws -> InferenceFunction? { fatalError() }
}

/// CoreAIDiffusionPipeline/Components/CoreAIDiffusionModelFunction.swift (run(inputs:), descriptor);
/// CoreAILanguageModels/InferenceEngines/CoreAISequentialVLMEngine.swift (states, outputViews)
public final class InferenceFunction {
    public var descriptor: InferenceFunctionDescriptor { fatalError() }
    public func run(inputs: [String: NDArray]) async throws -> Outputs { fatalError() }
    public func run(
        inputs: [String: NDArray], states: consuming MutableViews, outputViews: consuming MutableViews
    ) async throws -> Outputs { fatalError() }

    public struct MutableViews: ~Copyable {
        public init() {}
        public mutating func insert(_ array: inout NDArray, for name: String) {}
    }

    public struct Outputs {
        public mutating func remove(_ name: String) -> InferenceValue? { fatalError() }
    }
}

/// CoreAIDiffusionPipeline/Components/CoreAIDiffusionModelFunction.swift
public struct InferenceValue {
    public var ndArray: NDArray? { fatalError() }
}

/// CoreAILanguageModels/InferenceEngines/CoreAISequentialVLMEngine.swift
public struct InferenceFunctionDescriptor {
    public var inputNames: [String] { fatalError() }
    public func inputDescriptor(of name: String) -> InferenceValueDescriptor? { fatalError() }
    public func outputDescriptor(of name: String) -> InferenceValueDescriptor? { fatalError() }
    public func stateDescriptor(of name: String) -> InferenceValueDescriptor? { fatalError() }
}

/// CoreAILanguageModels/InferenceEngines/CoreAISequentialVLMEngine.swift
public enum InferenceValueDescriptor {
    case ndArray(NDArrayDescriptor)
    case other
}

/// CoreAILanguageModels/InferenceEngines/CoreAISequentialVLMEngine.swift
public struct NDArrayDescriptor {
    public func resolvingDynamicDimensions(_ shape: [Int]) -> NDArrayDescriptor { fatalError() }
}

/// CoreAIShared/Runtime/NDArray+Helpers.swift
public struct NDArray {
    public enum ScalarType { case float16, float32, int32, bfloat16 }
    public init(descriptor: NDArrayDescriptor) { fatalError() }
    public var scalarType: ScalarType { fatalError() }
    public func view<T: BitwiseCopyable>(as type: T.Type) -> View<T> { fatalError() }
    public mutating func mutableView<T: BitwiseCopyable>(as type: T.Type) -> MutableView<T> { fatalError() }

    public struct View<T: BitwiseCopyable> {
        public func withUnsafePointer<R>(_ body: (UnsafePointer<T>, Span<Int>, Span<Int>) throws -> R) rethrows -> R { fatalError() }
    }

    public struct MutableView<T: BitwiseCopyable> {
        public mutating func copyElements(fromContentsOf elements: some Collection<T>) {}
    }
}

public struct Span<Element> {
    public var count: Int { fatalError() }
    public subscript(_ place: Int) -> Element { fatalError() }
}
