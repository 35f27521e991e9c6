/// What a library must know of a VLM family, in one file each; names and order are those of edgekit/families.
public protocol Family: Sendable {
    /// What stands for a picture in a rendered prompt.
    var place: String { get }
    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels
    /// What a picture's place in the prompt becomes, in parts: a literal, and how many times it stands there.
    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)]
    func positions(_ ids: [Int], _ grids: [[Int]], _ params: Preprocessing) throws -> Positions
    /// Pictures' tokens (K, D) from those of their tiles (M, N, D); nil where they are the same.
    func pack(_ features: [Float], width: Int, _ grids: [[Int]], _ params: Preprocessing) throws -> [Float]?
}

extension Family {
    public func positions(_ ids: [Int], _ grids: [[Int]], _ params: Preprocessing) throws -> Positions {
        plainPositions(ids.count)
    }

    public func pack(_ features: [Float], width: Int, _ grids: [[Int]], _ params: Preprocessing) throws -> [Float]? { nil }
}

let families: [String: any Family] = [
    "gemma3": Gemma3(), "idefics3": Idefics3(), "internvl": InternVL(), "lfm2_vl": LFM2VL(),
    "llava_onevision": LlavaOneVision(), "qwen2_5_vl": QwenVL(), "qwen3_5": QwenVL(),
    "qwen3_vl": QwenVL(),
]

/// - Parameters:
///   - name: As model.json has it.
public func family(named name: String) throws -> any Family {
    if let found = families[name] { return found }
    throw EdgekitError(
        "No app library speaks for a model of family \(name.debugDescription).",
        why: "Those that work: \(families.keys.sorted().joined(separator: ", ")).", code: "unsupported")
}
