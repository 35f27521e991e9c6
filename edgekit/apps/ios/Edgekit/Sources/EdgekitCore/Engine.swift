/// What the vision encoder gives for the K image tokens of some pictures.
public struct Features: Sendable {
    /// (K, D).
    public let embeds: [Float]
    /// (K, D) for each of the first decoder layers; empty for most families.
    public let deepstack: [[Float]]

    public init(embeds: [Float], deepstack: [[Float]] = []) { (self.embeds, self.deepstack) = (embeds, deepstack) }
}

/// One model loaded in one runtime, with the cache of one conversation: what the loop asks of an adapter.
public protocol Engine: AnyObject {
    /// Features of all pictures, in their order.
    func encode(_ pixels: [Pixels]) throws -> Features
    /// Append a prompt, or what is new of a conversation; the logits (V,) that follow it.
    func prefill(_ prepared: Prepared, _ features: Features?) throws -> [Float]
    /// Append one token; the logits (V,) that follow it.
    func step(_ token: Int) throws -> [Float]
    /// Empty the cache.
    func reset()
    /// Forget all but the first tokens; how many are kept: so many, or 0 where some cannot be kept.
    func rewind(_ length: Int) -> Int
    /// Tokens the cache can hold; nil for any number.
    var room: Int? { get }
}

/// The parts of a bundle that an adapter runs one by one; `ModuleEngine` makes an engine of them.
public protocol Modules: AnyObject {
    /// Outputs of a vision encoder: features, and deepstack features (L, N, D) where there are.
    ///
    /// - Parameters:
    ///   - component: Its name in the bundle.
    ///   - values: Tiles (M, 3, H, W), or the patches (P, patch) of one picture.
    ///   - shape: Of the values.
    ///   - isTiles: Whether they are tiles.
    func encode(_ component: String, _ values: [Float], shape: [Int], isTiles: Bool) throws -> [[Float]]
    /// (T,) -> (T, D).
    func embed(_ ids: [Int]) throws -> [Float]
    /// Append embeddings (T, D) to the cache; the logits (V,) that follow them.
    ///
    /// - Parameters:
    ///   - deepstack: (L, T, D), where the model has it.
    func decode(_ embeds: [Float], _ tokens: Int, _ positions: Positions, _ deepstack: [Float]?) throws -> [Float]
    func reset()
    func rewind(_ length: Int) -> Int
    var room: Int? { get }
}

/// An engine of a bundle's modules: pictures to their buckets, image embeddings merged in, positions counted on.
public final class ModuleEngine: Engine {
    private let bundle: ModelBundle
    private let family: any Family
    private let modules: any Modules
    private var position = 0

    public init(_ bundle: ModelBundle, _ modules: any Modules) throws {
        (self.bundle, self.modules) = (bundle, modules)
        family = try EdgekitCore.family(named: bundle.family)
        for name in ["text_decoder", "token_embedding"] + bundle.buckets.map(\.component) { _ = try bundle.component(name) }
    }

    public var room: Int? { modules.room }

    public func encode(_ pixels: [Pixels]) throws -> Features {
        if let tiles = bundle.buckets.first(where: { $0.grid == nil }) {
            // All pictures' tiles at once.
            let (values, count) = (pixels.flatMap(\.values), pixels.reduce(0) { $0 + $1.count })
            let found = try modules.encode(tiles.component, values, shape: [count] + pixels[0].shape, isTiles: true)
            let width = try width()
            return Features(embeds: try family.pack(found[0], width: width, pixels.map(\.grid), bundle.preprocessing) ?? found[0])
        }
        var (embeds, deepstack): ([Float], [[Float]]) = ([], Array(repeating: [], count: bundle.deepstack))
        for picture in pixels {
            guard let bucket = bundle.buckets.first(where: { $0.grid == picture.grid }) else {
                throw damaged("A picture of \(picture.grid) patches has no vision encoder in this bundle.")
            }
            let found = try modules.encode(
                bucket.component, picture.values, shape: [picture.count] + picture.shape, isTiles: false)
            embeds += found[0]
            guard found.count > 1 || bundle.deepstack == 0 else { throw damaged("The vision encoder gives no deepstack features.") }
            for layer in deepstack.indices {
                let size = found[1].count / deepstack.count
                deepstack[layer] += found[1][layer * size..<(layer + 1) * size]
            }
        }
        return Features(embeds: embeds, deepstack: deepstack)
    }

    private func width() throws -> Int {
        guard let width = try bundle.component("token_embedding").outputs.first?.shape.last ?? nil else {
            throw damaged("The bundle does not say how wide its embeddings are.")
        }
        return width
    }

    public func prefill(_ prepared: Prepared, _ features: Features?) throws -> [Float] {
        var embeds = try modules.embed(prepared.ids)
        let width = embeds.count / prepared.ids.count
        let places = prepared.ids.indices.filter { prepared.ids[$0] == bundle.imageToken }
        if let features {
            guard places.count * width == features.embeds.count else {
                throw EdgekitError(
                    "The prompt has \(places.count) image tokens but the vision encoder gave \(features.embeds.count / width) embeddings.",
                    why: "A literal image token stands in the question.", fix: "Leave it out.", code: "prompt")
            }
            Self.merge(&embeds, 0, places, features.embeds, width)
        }
        return try decode(embeds, prepared.positions, try spread(features, places, prepared.ids.count, width))
    }

    public func step(_ token: Int) throws -> [Float] {
        let embeds = try modules.embed([token])
        let positions = Positions(repeating: [position], count: bundle.positionAxes)
        return try decode(embeds, positions, try spread(nil, [], 1, embeds.count))
    }

    private func decode(_ embeds: [Float], _ positions: Positions, _ deepstack: [Float]?) throws -> [Float] {
        position = (positions.compactMap { $0.max() }.max() ?? 0) + 1
        let logits = try modules.decode(embeds, positions[0].count, positions, deepstack)
        guard logits.count == bundle.vocabSize else {
            throw damaged("The decoder gives \(logits.count) logits, and the vocabulary has \(bundle.vocabSize).")
        }
        return logits
    }

    private static func merge(_ embeds: inout [Float], _ start: Int, _ places: [Int], _ features: [Float], _ width: Int) {
        embeds.withUnsafeMutableBufferPointer { embeds in
            features.withUnsafeBufferPointer { features in
                for (number, place) in places.enumerated() {
                    for at in 0..<width { embeds[start + place * width + at] = features[number * width + at] }
                }
            }
        }
    }

    /// Deepstack features (L, T, D): zero but at the image tokens.
    private func spread(_ features: Features?, _ places: [Int], _ tokens: Int, _ width: Int) throws -> [Float]? {
        if bundle.deepstack == 0 { return nil }
        var found = [Float](repeating: 0, count: bundle.deepstack * tokens * width)
        for (layer, own) in (features?.deepstack ?? []).enumerated() {
            guard own.count == places.count * width else { throw damaged("Deepstack features do not fit the picture.") }
            Self.merge(&found, layer * tokens * width, places, own, width)
        }
        return found
    }

    public func reset() {
        position = 0
        modules.reset()
    }

    public func rewind(_ length: Int) -> Int { bundle.rewinds ? modules.rewind(length) : 0 }
}
