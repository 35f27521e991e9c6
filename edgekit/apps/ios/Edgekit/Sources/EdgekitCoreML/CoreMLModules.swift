#if canImport(CoreML)
    import CoreML
    import EdgekitCore
    import Foundation

    extension Runtime {
        /// Core ML, on whatever of CPU, GPU and Neural Engine it chooses.
        @available(iOS 18, macOS 15, *)
        public static let coreML = Runtime("Core ML", targets: ["coreml"]) { bundle, _ in
            try ModuleEngine(bundle, try await CoreMLModules.open(bundle, .all))
        }

        /// Core ML on the CPU: for comparison.
        @available(iOS 18, macOS 15, *)
        public static let coreMLOnCPU = Runtime("Core ML (CPU)", targets: ["coreml"]) { bundle, _ in
            try ModuleEngine(bundle, try await CoreMLModules.open(bundle, .cpuOnly))
        }
    }

    /// A bundle's Core ML functions with the cache of one conversation: edgekit/formats/coreml/programs.py in Swift.
    @available(iOS 18, macOS 15, *)
    final class CoreMLModules: Modules {
        private static let hidden: Float = -1e4  // float16 holds it, and exp of it is 0
        private let bundle: ModelBundle
        private let functions: [String: MLModel]
        private let context: Int
        private let lengths: [Int]
        private let past: [ModelBundle.Tensor]
        private var state: MLState?
        private var grown: [String: MLFeatureValue] = [:]
        private var length = 0

        static func open(_ bundle: ModelBundle, _ units: MLComputeUnits) async throws -> CoreMLModules {
            let shared = bundle.components["decode"] != nil
            var (compiled, functions): ([String: URL], [String: MLModel]) = ([:], [:])
            for (name, component) in bundle.components {
                let package = String(component.file.split(separator: "/")[0])
                if compiled[package] == nil { compiled[package] = try await CompiledPackages.url(of: package, in: bundle) }
                let configuration = MLModelConfiguration()
                configuration.computeUnits = units
                if shared { configuration.functionName = name == "text_decoder" ? "prefill" : name }
                functions[name] = try await MLModel.load(contentsOf: compiled[package]!, configuration: configuration)
            }
            return try CoreMLModules(bundle, functions)
        }

        private init(_ bundle: ModelBundle, _ functions: [String: MLModel]) throws {
            (self.bundle, self.functions) = (bundle, functions)
            let decoder = try bundle.component("text_decoder")
            past = decoder.inputs.filter { $0.name.hasPrefix("past_") }
            let about = functions["text_decoder"]?.modelDescription.metadata[.creatorDefinedKey] as? [String: String]
            guard let context = about?["edgekit.context"].flatMap(Int.init), let sizes = about?["edgekit.prompt_lengths"] else {
                throw EdgekitError("The package's metadata do not say how its decoder is called.", fix: "Export it again.", code: "damaged")
            }
            self.context = context
            lengths = sizes.split(separator: ",").compactMap { Int($0) }.sorted()
            reset()
        }

        var room: Int? { context }

        func encode(_ component: String, _ values: [Float], shape: [Int], isTiles: Bool) throws -> [[Float]] {
            guard isTiles else { return try run(component, ["pixel_values": Tensor(values, shape)]) }
            // One tile a run: a fixed shape is what the Neural Engine compiles for.
            let size = values.count / shape[0]
            var found: [Float] = []
            for tile in 0..<shape[0] {
                let own = Tensor(Array(values[tile * size..<(tile + 1) * size]), [1] + Array(shape.dropFirst()))
                found += try run(component, ["pixel_values": own])[0]
            }
            return [found]
        }

        func embed(_ ids: [Int]) throws -> [Float] {
            let given = Tensor(ids.map { Float($0) }, [1, ids.count])
            return try run("token_embedding", ["input_ids": given])[0]
        }

        func decode(_ embeds: [Float], _ tokens: Int, _ positions: Positions, _ deepstack: [Float]?) throws -> [Float] {
            guard length + tokens <= context else {
                throw EdgekitError(
                    "The prompt and its answer take more than \(context) tokens.", why: "So many the cache of this bundle holds.",
                    fix: "Ask with fewer or smaller pictures, or for a shorter answer.", code: "prompt")
            }
            let width: Int = embeds.count / tokens
            var done = 0
            var logits: [Float] = []
            for (real, size) in pieces(tokens, room: context - length) {
                let part = done..<done + real
                var feeds: [String: Tensor] = [:]
                feeds["inputs_embeds"] = Tensor(rows(embeds, 0, part, width, size), [1, size, width])
                feeds["position_ids"] = places(positions, part, size)
                if let deepstack {
                    var all: [Float] = []
                    for layer in 0..<bundle.deepstack { all += rows(deepstack, layer * tokens, part, width, size) }
                    feeds["deepstack_embeds"] = Tensor(all, [bundle.deepstack, 1, size, width])
                }
                logits = try step(feeds, real, size)
                done += real
            }
            return logits
        }

        /// Some rows of a width from a first one on, filled up to `size` of them.
        private func rows(_ values: [Float], _ first: Int, _ part: Range<Int>, _ width: Int, _ size: Int) -> [Float] {
            let start: Int = (first + part.lowerBound) * width
            let end: Int = (first + part.upperBound) * width
            return padded(Array(values[start..<end]), size * width)
        }

        private func places(_ positions: Positions, _ part: Range<Int>, _ size: Int) -> Tensor {
            var all: [Float] = []
            for axis in positions { all += padded(axis[part].map { Float($0) }, size) }
            let axes: [Int] = positions.count > 1 ? [positions.count] : []
            return Tensor(all, axes + [1, size])
        }

        private func step(_ given: [String: Tensor], _ real: Int, _ size: Int) throws -> [Float] {
            let name = size == 1 && functions["decode"] != nil ? "decode" : "text_decoder"
            let ahead = past.isEmpty ? 0 : 1  // the token that is always hidden
            let wide = lengths.isEmpty ? length + size + ahead : context
            var feeds = given
            feeds["attention_mask"] = mask(size, wide, ahead)
            if !lengths.isEmpty { feeds["start"] = Tensor([Float(length)], [1]) }
            let outputs = try run(name, feeds)
            length += real
            return outputs[0]
        }

        /// (1, 1, T, S): 0 where a token may look.
        private func mask(_ tokens: Int, _ wide: Int, _ ahead: Int) -> Tensor {
            var values = [Float](repeating: Self.hidden, count: tokens * wide)
            for token in 0..<tokens {
                for place in ahead..<min(wide, ahead + length + token + 1) { values[token * wide + place] = 0 }
            }
            return Tensor(values, [1, 1, tokens, wide])
        }

        /// How a prompt is cut: tokens, and the size of the call, of each piece. The last token is the last of its call,
        /// because a call gives the logits of its last row alone; what pads the others is written over.
        private func pieces(_ count: Int, room: Int) -> [(Int, Int)] {
            if lengths.isEmpty { return [(count, count)] }
            var (found, tokens, room): ([(Int, Int)], Int, Int) = ([], count, room)
            while tokens > 1 {
                let left = lengths.contains(tokens) ? tokens : tokens - 1
                let fitting = lengths.filter { $0 <= room }
                let size = fitting.first { $0 >= left } ?? fitting.last ?? 1
                let real = min(left, size)
                found.append((real, size))
                (tokens, room) = (tokens - real, room - real)
            }
            return tokens > 0 ? found + [(1, 1)] : found
        }

        private func padded(_ values: [Float], _ count: Int) -> [Float] {
            values + [Float](repeating: 0, count: count - values.count)
        }

        private func run(_ name: String, _ feeds: [String: Tensor]) throws -> [[Float]] {
            guard let function = functions[name] else { throw EdgekitError("There is no function \(name).", code: "damaged") }
            let component = try bundle.component(name)
            var given: [String: MLFeatureValue] = grown.filter { entry in component.inputs.contains { $0.name == entry.key } }
            for spec in component.inputs {
                if let tensor = feeds[spec.name] { given[spec.name] = tensor.value(spec.dtype) }
            }
            let inputs = try MLDictionaryFeatureProvider(dictionary: given)
            let isDecoder = name == "text_decoder" || name == "decode"
            let found: any MLFeatureProvider
            if isDecoder, let state {
                found = try function.prediction(from: inputs, using: state)
            } else {
                found = try function.prediction(from: inputs)
            }
            for spec in component.outputs where spec.name.hasPrefix("present_") {
                grown["past_" + spec.name.dropFirst("present_".count)] = found.featureValue(for: spec.name)
            }
            return try component.outputs.filter { !$0.name.hasPrefix("present_") }.map { spec in
                guard let array = found.featureValue(for: spec.name)?.multiArrayValue else {
                    throw EdgekitError("The function \(name) does not give \(spec.name).", code: "damaged")
                }
                return MLShapedArray<Float>(converting: array).scalars
            }
        }

        func reset() {
            length = 0
            if past.isEmpty {
                // What lies behind the position is never read, so a state is kept.
                state = state ?? functions["text_decoder"]?.makeState()
            } else {
                // Core ML has no array of size 0: an empty cache holds one token that the mask hides for good.
                grown = [:]
                for spec in past {
                    let shape: [Int] = spec.shape.map { $0 ?? 1 }
                    let zeros = [Float](repeating: 0, count: shape.reduce(1, *))
                    grown[spec.name] = Tensor(zeros, shape).value(spec.dtype)
                }
            }
        }

        func rewind(_ length: Int) -> Int {
            guard past.isEmpty else { return 0 }  // a cache that goes in and out is filled anew
            self.length = length
            return length
        }
    }

    /// Numbers with a shape, in the type that a function takes.
    @available(iOS 18, macOS 15, *)
    private struct Tensor {
        let values: [Float]
        let shape: [Int]

        init(_ values: [Float], _ shape: [Int]) { (self.values, self.shape) = (values, shape) }

        func value(_ dtype: String) -> MLFeatureValue {
            switch dtype {
            case "float16": return MLFeatureValue(shapedArray: MLShapedArray<Float16>(scalars: values.map { Float16($0) }, shape: shape))
            case "int32": return MLFeatureValue(shapedArray: MLShapedArray<Int32>(scalars: values.map { Int32($0) }, shape: shape))
            default: return MLFeatureValue(shapedArray: MLShapedArray<Float>(scalars: values, shape: shape))
            }
        }
    }

    /// Packages compiled on this device, once for each version of a bundle.
    @available(iOS 18, macOS 15, *)
    enum CompiledPackages {
        static func url(of package: String, in bundle: ModelBundle) async throws -> URL {
            let own = bundle.files.filter { $0.path.hasPrefix(package + "/") }.map { $0.path + $0.sha256 }.sorted()
            let key = SHA256Sum.of(Array(own.joined(separator: "\n").utf8))
            let caches = try FileManager.default.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            let place = caches.appendingPathComponent("edgekit/\(key).mlmodelc")
            if FileManager.default.fileExists(atPath: place.path) { return place }
            let made = try await MLModel.compileModel(at: bundle.path(package))
            try FileManager.default.createDirectory(at: place.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.moveItem(at: made, to: place)
            return place
        }
    }
#endif
