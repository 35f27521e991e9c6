import COnnxRuntime
import EdgekitCore
import Foundation

/// ONNX Runtime's table of functions, and the one environment of the process.
enum Ort {
    static let api: UnsafePointer<OrtApi>? = OrtGetApiBase().pointee.GetApi(UInt32(ORT_API_VERSION))
    private static let environment: Result<OpaquePointer, EdgekitError> = Result {
        try make("an environment") { $0.pointee.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgekit", $1) }
    }.mapError { $0 as? EdgekitError ?? EdgekitError("ONNX Runtime does not start.", why: "\($0)", code: "runtime") }
    private static let memory: Result<OpaquePointer, EdgekitError> = Result {
        try make("a memory") { $0.pointee.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, $1) }
    }.mapError { $0 as? EdgekitError ?? EdgekitError("ONNX Runtime does not start.", why: "\($0)", code: "runtime") }

    static func table() throws -> UnsafePointer<OrtApi> {
        guard let api else {
            throw EdgekitError("This ONNX Runtime is older than version 1.\(ORT_API_VERSION).", code: "runtime")
        }
        return api
    }

    /// Throw what a status says.
    static func check(_ status: OrtStatusPtr?, _ task: String) throws {
        guard let status else { return }
        let api = try table()
        let message: UnsafePointer<CChar>? = api.pointee.GetErrorMessage(status)
        let why = message.map { String(cString: $0) } ?? ""
        api.pointee.ReleaseStatus(status)
        throw EdgekitError("ONNX Runtime does not make \(task).", why: String(why.prefix(500)), code: "runtime")
    }

    static func make(
        _ task: String,
        _ call: (UnsafePointer<OrtApi>, UnsafeMutablePointer<OpaquePointer?>) -> OrtStatusPtr?
    ) throws -> OpaquePointer {
        var found: OpaquePointer?
        try check(call(try table(), &found), task)
        guard let found else { throw EdgekitError("ONNX Runtime does not make \(task).", code: "runtime") }
        return found
    }

    static func environmentPointer() throws -> OpaquePointer { try environment.get() }
    static func memoryPointer() throws -> OpaquePointer { try memory.get() }
}

/// A tensor; what it was made of lives as long as it does.
final class OrtTensor {
    let value: OpaquePointer
    private let storage: UnsafeMutableRawPointer?

    /// One that ONNX Runtime made.
    init(owned value: OpaquePointer) { (self.value, storage) = (value, nil) }

    init<T>(_ values: [T], _ shape: [Int], _ type: ONNXTensorElementDataType) throws {
        let bytes = values.count * MemoryLayout<T>.stride
        let storage = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 1), alignment: 64)
        values.withUnsafeBytes { if let from = $0.baseAddress { storage.copyMemory(from: from, byteCount: bytes) } }
        self.storage = storage
        do {
            value = try Self.over(storage, bytes, shape, type)
        } catch {
            storage.deallocate()
            throw error
        }
    }

    /// Zeros with a shape.
    static func zeros(_ shape: [Int]) throws -> OrtTensor {
        try OrtTensor([Float](repeating: 0, count: shape.reduce(1, *)), shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
    }

    private static func over(
        _ storage: UnsafeMutableRawPointer, _ bytes: Int, _ shape: [Int], _ type: ONNXTensorElementDataType
    ) throws -> OpaquePointer {
        let memory = try Ort.memoryPointer()
        let sizes = shape.map(Int64.init)
        return try Ort.make("a tensor") {
            $0.pointee.CreateTensorWithDataAsOrtValue(memory, storage, bytes, sizes, sizes.count, type, $1)
        }
    }

    deinit {
        Ort.api?.pointee.ReleaseValue(value)
        storage?.deallocate()
    }

    /// Its numbers in the runtime's own memory, which lives as long as this.
    func floats() throws -> UnsafeMutableBufferPointer<Float> {
        let api = try Ort.table()
        var info: OpaquePointer?
        try Ort.check(api.pointee.GetTensorTypeAndShape(value, &info), "a tensor's shape")
        defer { api.pointee.ReleaseTensorTypeAndShapeInfo(info) }
        var (type, count) = (ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0)
        try Ort.check(api.pointee.GetTensorElementType(info, &type), "a tensor's type")
        try Ort.check(api.pointee.GetTensorShapeElementCount(info, &count), "a tensor's size")
        guard type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT else {
            throw EdgekitError("A graph gives numbers of another type than float32.", code: "damaged")
        }
        var data: UnsafeMutableRawPointer?
        try Ort.check(api.pointee.GetTensorMutableData(value, &data), "a tensor's numbers")
        return UnsafeMutableBufferPointer(start: data?.assumingMemoryBound(to: Float.self), count: count)
    }
}

/// A loaded graph.
final class OrtGraph {
    private let session: OpaquePointer

    init(_ path: URL, threads: Int) throws {
        let options = try Ort.make("options") { $0.pointee.CreateSessionOptions($1) }
        let api = try Ort.table()
        defer { api.pointee.ReleaseSessionOptions(options) }
        try Ort.check(api.pointee.SetIntraOpNumThreads(options, Int32(threads)), "threads")
        try Ort.check(api.pointee.SetInterOpNumThreads(options, 1), "threads")
        let environment = try Ort.environmentPointer()
        session = try Ort.make("a session of \(path.lastPathComponent)") {
            $0.pointee.CreateSession(environment, path.path, options, $1)
        }
    }

    deinit { Ort.api?.pointee.ReleaseSession(session) }

    /// Run it once.
    ///
    /// - Parameters:
    ///   - outputs: Names, each with the tensor that it is written to, or nil for a new one.
    func run(_ inputs: [(String, OrtTensor)], _ outputs: [(String, OrtTensor?)], _ component: String) throws -> [OrtTensor] {
        let (takes, gives) = (CStrings(inputs.map(\.0)), CStrings(outputs.map(\.0)))
        let given = inputs.map { Optional($0.1.value) }
        var found = outputs.map { $0.1?.value }
        let api = try Ort.table()
        let status = api.pointee.Run(
            session, nil, takes.pointers, given, given.count, gives.pointers, found.count, &found)
        try Ort.check(status, "a run of the component \(component)")
        return zip(outputs, found).map { output, value in output.1 ?? OrtTensor(owned: value!) }
    }
}

/// Names as C has them, freed with this.
private final class CStrings {
    let pointers: [UnsafePointer<CChar>?]
    init(_ names: [String]) { pointers = names.map { UnsafePointer(strdup($0)) } }
    deinit { for pointer in pointers { free(UnsafeMutablePointer(mutating: pointer)) } }
}
