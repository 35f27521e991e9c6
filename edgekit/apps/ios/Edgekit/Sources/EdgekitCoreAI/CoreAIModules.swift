#if canImport(CoreAI)
    import CoreAI
    import EdgekitCore
    import Foundation

    extension Runtime {
        /// Core AI, which comes with iOS 27.
        @available(iOS 27, macOS 27, *)
        public static let coreAI = Runtime("Core AI", targets: ["coreai"]) { bundle, _ in
            try ModuleEngine(bundle, try await CoreAIModules.open(bundle))
        }
    }

    /// A bundle's Core AI assets, and the states they are run with: edgekit/formats/coreai/assets.py in Swift.
    @available(iOS 27, macOS 27, *)
    final class CoreAIModules: Modules {
        private static let states = ("k_cache", "v_cache")
        private let bundle: ModelBundle
        private let functions: [String: InferenceFunction]
        private let context: Int
        private var keys: NDArray
        private var values: NDArray
        private var length = 0

        static func open(_ bundle: ModelBundle) async throws -> CoreAIModules {
            var functions: [String: InferenceFunction] = [:]
            for (name, component) in bundle.components {
                let asset = String(component.file.split(separator: "/")[0])
                let model = try await AIModel(contentsOf: bundle.path(asset))
                guard let function = try model.loadFunction(named: "main") else {
                    throw EdgekitError("\(asset) has no function main.", fix: "Export the bundle again.", code: "damaged")
                }
                functions[name] = function
            }
            return try CoreAIModules(bundle, functions)
        }

        private init(_ bundle: ModelBundle, _ functions: [String: InferenceFunction]) throws {
            (self.bundle, self.functions) = (bundle, functions)
            let inputs = try bundle.component("text_decoder").inputs
            guard let shape = inputs.first(where: { $0.name == Self.states.0 })?.shape, shape.count == 5, let rows = shape[3],
                let decoder = functions["text_decoder"],
                case .ndArray(let keys) = decoder.descriptor.stateDescriptor(of: Self.states.0),
                case .ndArray(let values) = decoder.descriptor.stateDescriptor(of: Self.states.1)
            else { throw EdgekitError("The decoder has no states of a known shape.", code: "damaged") }
            context = rows - 1  // the export leaves one place unused
            self.keys = NDArray(descriptor: keys)
            self.values = NDArray(descriptor: values)
        }

        var room: Int? { context }

        func encode(_ component: String, _ values: [Float], shape: [Int], isTiles: Bool) throws -> [[Float]] {
            guard isTiles else { return try run(component, ["pixel_values": (values, shape)]) }
            let size = values.count / shape[0]
            var found: [Float] = []
            for tile in 0..<shape[0] {
                let own = Array(values[tile * size..<(tile + 1) * size])
                found += try run(component, ["pixel_values": (own, [1] + Array(shape.dropFirst()))])[0]
            }
            return [found]
        }

        func embed(_ ids: [Int]) throws -> [Float] {
            // Core AI reads past its table without a word.
            if let wrong = ids.first(where: { $0 < 0 || $0 >= bundle.vocabSize }) {
                throw EdgekitError("Token \(wrong) is outside of the model's vocabulary.", code: "damaged")
            }
            return try run("token_embedding", ["input_ids": (ids.map { Float($0) }, [1, ids.count])])[0]
        }

        func decode(_ embeds: [Float], _ tokens: Int, _ positions: Positions, _ deepstack: [Float]?) throws -> [Float] {
            // Core AI writes past its states' end without a word.
            guard length + tokens <= context else {
                throw EdgekitError(
                    "The prompt and its answer take more than \(context) tokens.", why: "So many the states of this bundle hold.",
                    fix: "Ask with fewer or smaller pictures, or for a shorter answer.", code: "prompt")
            }
            let width = embeds.count / tokens
            var inputs: [String: ([Float], [Int])] = [:]
            inputs["inputs_embeds"] = (embeds, [1, tokens, width])
            inputs["position_ids"] = ((0..<length + tokens).map { Float($0) }, [1, length + tokens])
            if positions.count > 1 { inputs["rotary_ids"] = (positions.joined().map { Float($0) }, [positions.count, 1, tokens]) }
            if let deepstack { inputs["deepstack_embeds"] = (deepstack, [bundle.deepstack, 1, tokens, width]) }
            let arrays = try arrays("text_decoder", inputs)
            let name = try bundle.component("text_decoder").outputs[0].name
            let logits = try wait { try await self.step(arrays, name, tokens) }
            length += tokens
            return Array(logits.suffix(bundle.vocabSize))
        }

        private func step(_ inputs: [String: NDArray], _ name: String, _ tokens: Int) async throws -> [Float] {
            guard let decoder = functions["text_decoder"], case .ndArray(let given) = decoder.descriptor.outputDescriptor(of: name)
            else { throw EdgekitError("The decoder does not give \(name).", code: "damaged") }
            var logits = NDArray(descriptor: given.resolvingDynamicDimensions([1, tokens, bundle.vocabSize]))
            var states = InferenceFunction.MutableViews()
            states.insert(&keys, for: Self.states.0)
            states.insert(&values, for: Self.states.1)
            var outputs = InferenceFunction.MutableViews()
            outputs.insert(&logits, for: name)
            _ = try await decoder.run(inputs: inputs, states: consume states, outputViews: consume outputs)
            return try floats(logits)
        }

        private func run(_ name: String, _ inputs: [String: ([Float], [Int])]) throws -> [[Float]] {
            guard let function = functions[name] else { throw EdgekitError("There is no asset \(name).", code: "damaged") }
            let (arrays, wanted) = (try arrays(name, inputs), try bundle.component(name).outputs.map(\.name))
            return try wait {
                var outputs = try await function.run(inputs: arrays)
                return try wanted.map { output in
                    guard let array = outputs.remove(output)?.ndArray else {
                        throw EdgekitError("The asset \(name) does not give \(output).", code: "damaged")
                    }
                    return try floats(array)
                }
            }
        }

        /// Inputs in the types that the asset takes.
        private func arrays(_ name: String, _ inputs: [String: ([Float], [Int])]) throws -> [String: NDArray] {
            guard let function = functions[name] else { throw EdgekitError("There is no asset \(name).", code: "damaged") }
            var found: [String: NDArray] = [:]
            for (input, (values, shape)) in inputs where function.descriptor.inputNames.contains(input) {
                guard case .ndArray(let given) = function.descriptor.inputDescriptor(of: input) else {
                    throw EdgekitError("The asset \(name) does not take \(input).", code: "damaged")
                }
                var array = NDArray(descriptor: given.resolvingDynamicDimensions(shape))
                switch array.scalarType {
                case .float16: fill(&array, values.map { Float16($0) })
                case .int32: fill(&array, values.map { Int32($0) })
                case .float32: fill(&array, values)
                default: throw EdgekitError("The asset \(name) takes \(input) as a type that is not known.", code: "damaged")
                }
                found[input] = array
            }
            return found
        }

        func reset() { length = 0 }  // what lies behind is never read

        func rewind(_ length: Int) -> Int {
            self.length = length
            return length
        }
    }

    @available(iOS 27, macOS 27, *)
    private func fill<T: BitwiseCopyable>(_ array: inout NDArray, _ values: [T]) {
        var view = array.mutableView(as: T.self)
        view.copyElements(fromContentsOf: values)
    }

    @available(iOS 27, macOS 27, *)
    private func floats(_ array: NDArray) throws -> [Float] {
        switch array.scalarType {
        case .float16: return read(array, Float16.self) { Float($0) }
        case .float32: return read(array, Float.self) { $0 }
        default: throw EdgekitError("An asset gives numbers of a type that is not known.", code: "damaged")
        }
    }

    /// Row by row, whatever padding the hardware wants between the rows.
    @available(iOS 27, macOS 27, *)
    private func read<T: BitwiseCopyable>(_ array: NDArray, _ type: T.Type, _ convert: (T) -> Float) -> [Float] {
        array.view(as: type).withUnsafePointer { pointer, shape, strides in
            let sizes = (0..<shape.count).map { shape[$0] }
            var (place, found) = ([Int](repeating: 0, count: sizes.count), [Float]())
            for _ in 0..<sizes.reduce(1, *) {
                var offset = 0
                for axis in place.indices { offset += place[axis] * strides[axis] }
                found.append(convert(pointer[offset]))
                for axis in sizes.indices.reversed() {
                    place[axis] += 1
                    if place[axis] < sizes[axis] { break }
                    place[axis] = 0
                }
            }
            return found
        }
    }

    /// Core AI's calls are asynchronous; the loop has a thread of its own that may wait for them.
    private func wait<T>(_ work: @escaping () async throws -> T) throws -> T {
        let (done, box) = (DispatchSemaphore(value: 0), WaitBox<T>())
        let task = UncheckedWork(work)
        Task.detached {
            do { box.result = .success(try await task.work()) } catch { box.result = .failure(error) }
            done.signal()
        }
        done.wait()
        return try box.result!.get()
    }

    private final class WaitBox<T>: @unchecked Sendable { var result: Result<T, any Error>? }

    private struct UncheckedWork<T>: @unchecked Sendable {
        let work: () async throws -> T
        init(_ work: @escaping () async throws -> T) { self.work = work }
    }
#endif
