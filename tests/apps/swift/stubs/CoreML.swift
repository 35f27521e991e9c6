// NOT Apple's SDK: only the declarations of Core ML that EdgekitCoreML uses, so that the adapter's types can be checked
// where there is no Xcode. Nothing here runs. An address above a declaration is the page that shows it; what has none
// goes by its name alone: its page was not looked up.
import Foundation

/// https://developer.apple.com/documentation/coreml/mlmodel
open class MLModel {
    /// https://developer.apple.com/documentation/coreml/mlmodel/load(contentsof:configuration:)
    public class func load(contentsOf url: URL, configuration: MLModelConfiguration = MLModelConfiguration()) async throws -> MLModel { fatalError() }
    /// The asynchronous one. The other one's page:
    /// https://developer.apple.com/documentation/coreml/mlmodel/compilemodel(at:)-6442s
    public class func compileModel(at url: URL) async throws -> URL { fatalError() }
    public var modelDescription: MLModelDescription { fatalError() }
    /// https://developer.apple.com/documentation/coreml/mlmodel/prediction(from:)
    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider { fatalError() }
    /// https://developer.apple.com/documentation/coreml/mlmodel/prediction(from:using:)-97bu1
    public func prediction(from inputFeatures: any MLFeatureProvider, using state: MLState) throws -> any MLFeatureProvider { fatalError() }
    /// https://developer.apple.com/documentation/coreml/mlmodel/makestate()
    public func makeState() -> MLState { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlstate
public class MLState {}

/// https://developer.apple.com/documentation/coreml/mlmodelconfiguration
open class MLModelConfiguration {
    public init() {}
    /// https://developer.apple.com/documentation/coreml/mlmodelconfiguration/computeunits
    public var computeUnits: MLComputeUnits = .all
    /// https://developer.apple.com/documentation/coreml/mlmodelconfiguration/functionname
    public var functionName: String?
}

/// https://developer.apple.com/documentation/coreml/mlcomputeunits
public enum MLComputeUnits: Int { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

open class MLModelDescription {
    public var metadata: [MLModelMetadataKey: Any] { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlmodelmetadatakey
public struct MLModelMetadataKey: Hashable {
    /// https://developer.apple.com/documentation/coreml/mlmodelmetadatakey/creatordefinedkey
    public static let creatorDefinedKey = MLModelMetadataKey()
}

/// https://developer.apple.com/documentation/coreml/mlfeatureprovider
public protocol MLFeatureProvider {
    func featureValue(for featureName: String) -> MLFeatureValue?
}

/// https://developer.apple.com/documentation/coreml/mldictionaryfeatureprovider
open class MLDictionaryFeatureProvider: MLFeatureProvider {
    /// https://developer.apple.com/documentation/coreml/mldictionaryfeatureprovider/init(dictionary:)
    public init(dictionary: [String: Any]) throws {}
    public func featureValue(for featureName: String) -> MLFeatureValue? { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlfeaturevalue
open class MLFeatureValue {
    /// https://developer.apple.com/documentation/coreml/mlfeaturevalue/init(shapedarray:)
    public init<Scalar: MLShapedArrayScalar>(shapedArray: MLShapedArray<Scalar>) {}
    public var multiArrayValue: MLMultiArray? { fatalError() }
}

/// https://developer.apple.com/documentation/coreml/mlmultiarray
open class MLMultiArray {}

/// https://developer.apple.com/documentation/coreml/mlshapedarrayscalar
public protocol MLShapedArrayScalar {}
extension Float: MLShapedArrayScalar {}
extension Float16: MLShapedArrayScalar {}
extension Int32: MLShapedArrayScalar {}

/// https://developer.apple.com/documentation/coreml/mlshapedarray
public struct MLShapedArray<Scalar: MLShapedArrayScalar> {
    /// https://developer.apple.com/documentation/coreml/mlshapedarray/init(scalars:shape:)
    public init<S: Sequence>(scalars: S, shape: [Int]) where S.Element == Scalar { fatalError() }
    /// https://developer.apple.com/documentation/coreml/mlshapedarrayprotocol/init(converting:)
    public init(converting array: MLMultiArray) { fatalError() }
    /// https://developer.apple.com/documentation/coreml/mlshapedarrayprotocol/scalars
    public var scalars: [Scalar] { fatalError() }
}
