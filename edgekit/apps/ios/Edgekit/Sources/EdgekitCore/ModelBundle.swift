import Foundation

/// What an app must know of a bundle: app/model.json and app/prompt.json, as `edgekit export` writes them.
public struct ModelBundle: Sendable {
    public struct File: Sendable, Equatable {
        public let path: String
        public let url: String
        public let sha256: String
        public let bytes: Int
        /// model, text or golden.
        public let use: String
    }

    public struct Tensor: Sendable {
        public let name: String
        public let dtype: String
        /// Nil for a free size.
        public let shape: [Int?]
    }

    public struct Component: Sendable {
        public let file: String
        public let inputs: [Tensor]
        public let outputs: [Tensor]
    }

    public struct Bucket: Sendable {
        public let name: String
        public let component: String
        /// Of the one picture it takes; nil for tiles, any number of them.
        public let grid: [Int]?
    }

    public static let model = "app/model.json"
    public static let prompt = "app/prompt.json"
    public static let golden = "golden/golden.json"

    public let folder: URL
    public let name: String
    public let target: String
    public let family: String
    public let precision: String
    public let files: [File]
    public let components: [String: Component]
    public let buckets: [Bucket]
    public let preprocessing: Preprocessing
    public let tokenizer: String
    public let imageToken: Int
    public let ends: Set<Int>
    public let appendsInPlace: Bool
    public let rewinds: Bool
    public let vocabSize: Int
    public let positionAxes: Int
    public let deepstack: Int
    public let generation: JSON
    public let details: JSON
    /// Ids below it may be drawn; greedy looks at all logits.
    public let drawable: Int

    /// - Parameters:
    ///   - folder: The bundle's.
    public init(folder: URL) throws {
        let json = try readJSON(folder.appendingPathComponent(Self.model))
        guard json["format"].int == 1 else {
            throw EdgekitError(
                "\(Self.model) is of format \(json["format"].int ?? 0), and this library reads 1.",
                fix: "Make the app again with a newer edgekit.", code: "unsupported")
        }
        func text(_ value: JSON, _ name: String) throws -> String {
            guard let found = value.string else { throw damaged("\(Self.model): \(name) is no text.") }
            return found
        }
        func number(_ value: JSON, _ name: String) throws -> Int {
            guard let found = value.int else { throw damaged("\(Self.model): \(name) is no whole number.") }
            return found
        }
        self.folder = folder
        name = try text(json["name"], "name")
        target = try text(json["target"], "target")
        family = try text(json["family"], "family")
        precision = json["precision"]["common"].string ?? ""
        files = try Self.files(json)
        components = try Self.components(json["components"])
        let buckets = (json["buckets"].object ?? []).map { key, value in
            Bucket(
                name: String(decoding: key, as: UTF8.self), component: value["component"].string ?? "",
                grid: value["grid"].ints)
        }
        self.buckets = buckets.isEmpty ? [Bucket(name: "", component: "vision_encoder", grid: nil)] : buckets
        preprocessing = try Preprocessing(json["preprocessing"])
        tokenizer = json["text"]["tokenizer"].string ?? "tokenizer.json"
        imageToken = try number(json["text"]["image_token_id"], "text.image_token_id")
        ends = Set(json["text"]["eos_token_ids"].ints ?? [])
        appendsInPlace = json["cache"]["in_place"].bool ?? false
        rewinds = json["cache"]["rewinds"].bool ?? true
        vocabSize = try number(json["vocab_size"], "vocab_size")
        positionAxes = json["position_axes"].int ?? 1
        deepstack = json["deepstack"].int ?? 0
        generation = json["generation"]
        details = json["details"]
        drawable = json["tokens"].int ?? vocabSize
    }

    /// The address of a file of the bundle, never one outside of it.
    public func path(_ name: String) throws -> URL {
        guard Self.isInside(name) else { throw damaged("\(Self.model) names a file outside of the bundle: \(name).") }
        return folder.appendingPathComponent(name)
    }

    static func isInside(_ name: String) -> Bool {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        return !name.hasPrefix("/") && !name.contains("\\") && !name.contains("\0")
            && !parts.contains { $0 == "" || $0 == "." || $0 == ".." }
    }

    /// Files are stored under their hash, so nothing else may stand for one.
    static func isHash(_ text: String) -> Bool {
        text.utf8.count == 64 && text.unicodeScalars.allSatisfy { ("0"..."9").contains($0) || ("a"..."f").contains($0) || ("A"..."F").contains($0) }
    }

    /// The files that a model.json lists.
    static func files(_ json: JSON) throws -> [File] {
        try (json["files"].array ?? []).map { entry in
            guard let path = entry["path"].string, let hash = entry["sha256"].string, let bytes = entry["bytes"].int,
                isInside(path), isHash(hash), bytes >= 0
            else { throw damaged("\(model) lists a file without path, hash or size.") }
            return File(
                path: path, url: entry["url"].string ?? path, sha256: hash.lowercased(), bytes: bytes,
                use: entry["for"].string ?? "model")
        }
    }

    private static func components(_ json: JSON) throws -> [String: Component] {
        func tensors(_ json: JSON) -> [Tensor] {
            (json.array ?? []).map { one in
                Tensor(
                    name: one["name"].string ?? "", dtype: one["dtype"].string ?? "",
                    shape: (one["shape"].array ?? []).map(\.int))
            }
        }
        var found: [String: Component] = [:]
        for (key, value) in json.object ?? [] {
            guard let file = value["file"].string else { throw damaged("\(model): a component without a file.") }
            found[String(decoding: key, as: UTF8.self)] = Component(
                file: file, inputs: tensors(value["inputs"]), outputs: tensors(value["outputs"]))
        }
        return found
    }

    public func component(_ name: String) throws -> Component {
        guard let found = components[name] else { throw damaged("The bundle has no component \(name.debugDescription).") }
        return found
    }
}

/// A JSON file of a bundle.
func readJSON(_ path: URL) throws -> JSON { try JSON(parsing: readBytes(path), source: path.lastPathComponent) }

func readBytes(_ path: URL) throws -> [UInt8] {
    do {
        return [UInt8](try Data(contentsOf: path, options: .mappedIfSafe))
    } catch {
        throw damaged("Cannot read \(path.lastPathComponent).", error.localizedDescription)
    }
}
