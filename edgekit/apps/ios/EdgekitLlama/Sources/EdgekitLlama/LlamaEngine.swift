import CLlama
import EdgekitCore
import Foundation

extension Runtime {
    /// llama.cpp; its layers on the GPU where there is one.
    public static let llama = Runtime("llama.cpp", targets: ["gguf"]) { bundle, threads in
        try LlamaEngine(bundle, threads: threads)
    }
}

/// A bundle in llama.cpp: words go in as ids, pictures as embeddings that its clip gives for edgekit's own tiles, so a
/// prompt is the one that the student was trained on. edgekit/formats/gguf/modules.py in Swift.
final class LlamaEngine: Engine {
    private let bundle: ModelBundle
    private let model: OpaquePointer
    private let context: OpaquePointer
    private let clip: Clip
    private let batch = 512
    private let size: Int
    private var places: [Int] = []
    private var next = 0

    init(_ bundle: ModelBundle, threads: Int) throws {
        self.bundle = bundle
        let (text, vision) = try Self.files(bundle)
        guard let context = bundle.details["text"]["context"].int else { throw damagedBundle("lacks its GGUF details") }
        llama_log_set({ _, _, _ in }, nil)
        mtmd_log_set({ _, _, _ in }, nil)
        llama_backend_init()
        guard let model = llama_model_load_from_file(text.path, llama_model_default_params()) else {
            throw damagedBundle("has a text model that llama.cpp does not load")
        }
        self.model = model
        var params = llama_context_default_params()
        (params.n_ctx, params.n_batch, params.n_ubatch) = (UInt32(context), UInt32(batch), UInt32(batch))
        (params.n_threads, params.n_threads_batch) = (Int32(threads), Int32(threads))
        guard let made = llama_init_from_model(model, params) else {
            llama_model_free(model)
            throw damagedBundle("has a text model that llama.cpp makes no context for")
        }
        self.context = made
        size = Int(llama_vocab_n_tokens(llama_model_get_vocab(model)))
        clip = try Clip(vision, model, bundle, threads)
    }

    private static func files(_ bundle: ModelBundle) throws -> (URL, URL) {
        guard let vision = bundle.components.first(where: { $0.key.hasPrefix("vision") })?.value else {
            throw damagedBundle("has no vision encoder")
        }
        return (try bundle.path(bundle.component("text_decoder").file), try bundle.path(vision.file))
    }

    deinit {
        clip.free()
        llama_free(context)
        llama_model_free(model)
    }

    var room: Int? { Int(llama_n_ctx(context)) }

    func encode(_ pixels: [Pixels]) throws -> Features {
        let width = Int(llama_model_n_embd(model))
        var (embeds, layers): ([Float], [[Float]]) = ([], Array(repeating: [], count: bundle.deepstack))
        for view in pixels.flatMap(\.views) {
            let (rows, wide) = try clip.encode(view)
            guard wide == width * (1 + layers.count) else { throw damagedBundle("has a mmproj of another width") }
            for start in stride(from: 0, to: rows.count, by: wide) {
                embeds += rows[start..<start + width]
                for layer in layers.indices {
                    layers[layer] += rows[start + (layer + 1) * width..<start + (layer + 2) * width]
                }
            }
        }
        return Features(embeds: embeds, deepstack: layers)
    }

    func prefill(_ prepared: Prepared, _ features: Features?) throws -> [Float] {
        let (ids, width) = (prepared.ids, Int(llama_model_n_embd(model)))
        try grow(prepared.positions)
        var (place, start) = (0, 0)
        while place < ids.count {
            let isImage = features != nil && ids[place] == bundle.imageToken
            var end = place
            while end < ids.count, (features != nil && ids[end] == bundle.imageToken) == isImage { end += 1 }
            let own = prepared.positions.map { Array($0[place..<end]) }
            if isImage, let features {
                var rows: [Float] = []
                for row in start..<start + end - place {
                    guard (row + 1) * width <= features.embeds.count else { throw damagedBundle("gives too few image embeddings") }
                    for part in [features.embeds] + features.deepstack { rows += part[row * width..<(row + 1) * width] }
                }
                try feed(count: end - place, ids: nil, rows: rows, own, last: end == ids.count)
                start += end - place
            } else {
                try feed(count: end - place, ids: Array(ids[place..<end]), rows: nil, [own[0]], last: end == ids.count)
            }
            place = end
        }
        return logits()
    }

    func step(_ token: Int) throws -> [Float] {
        let place = [[next]]
        try grow(place)
        try feed(count: 1, ids: [token], rows: nil, place, last: true)
        return logits()
    }

    /// Note the positions of what is appended; all tokens before one stand at lower ones.
    private func grow(_ positions: Positions) throws {
        guard places.count + positions[0].count <= room! else {
            throw EdgekitError("The prompt and its answer take more than \(room!) tokens.", why: "So many the cache holds.", code: "prompt")
        }
        places += positions[0]
        next = (positions.compactMap { $0.max() }.max() ?? -1) + 1
    }

    private func feed(count: Int, ids: [Int]?, rows: [Float]?, _ positions: Positions, last: Bool) throws {
        // Embeddings with M-RoPE have four positions each, the fourth of no meaning.
        let axes = positions.count == 1 ? positions : positions + [Array(repeating: 0, count: count)]
        let width = rows.map { $0.count / count } ?? 0
        for start in stride(from: 0, to: count, by: batch) {
            let part = start..<min(start + batch, count)
            var tokens = ids.map { $0[part].map { llama_token($0) } } ?? []
            var own = rows.map { Array($0[part.lowerBound * width..<part.upperBound * width]) } ?? []
            var pos = axes.flatMap { $0[part].map { llama_pos($0) } }
            var wanted = [Int8](repeating: 0, count: part.count)
            wanted[part.count - 1] = last && part.upperBound == count ? 1 : 0
            let code = tokens.withUnsafeMutableBufferPointer { tokens in
                own.withUnsafeMutableBufferPointer { own in
                    pos.withUnsafeMutableBufferPointer { pos in
                        wanted.withUnsafeMutableBufferPointer { wanted in
                            var given = llama_batch()
                            given.n_tokens = Int32(part.count)
                            given.token = ids == nil ? nil : tokens.baseAddress
                            given.embd = ids == nil ? own.baseAddress : nil
                            (given.pos, given.logits) = (pos.baseAddress, wanted.baseAddress)
                            return llama_decode(context, given)
                        }
                    }
                }
            }
            guard code == 0 else { throw EdgekitError("llama.cpp gives code \(code) for a prompt.", code: "runtime") }
        }
    }

    private func logits() -> [Float] {
        Array(UnsafeBufferPointer(start: llama_get_logits_ith(context, -1), count: size))
    }

    func reset() {
        llama_memory_clear(llama_get_memory(context), true)
        (places, next) = ([], 0)
    }

    func rewind(_ length: Int) -> Int {
        if length >= places.count { return length }
        guard length > 0, llama_memory_seq_rm(llama_get_memory(context), 0, llama_pos(places[length]), -1) else {
            reset()
            return 0
        }
        places.removeLast(places.count - length)
        return length
    }
}

/// llama.cpp's vision encoder.
private final class Clip {
    private static let marker = "<__media__>"
    private let context: OpaquePointer
    private let width: Int

    init(_ file: URL, _ model: OpaquePointer, _ bundle: ModelBundle, _ threads: Int) throws {
        var params = mtmd_context_params_default()
        (params.print_timings, params.warmup, params.n_threads) = (false, false, Int32(threads))
        if let tokens = bundle.details["mmproj"]["image_tokens"].ints, tokens.count == 2 {
            (params.image_min_tokens, params.image_max_tokens) = (Int32(tokens[0]), Int32(tokens[1]))
        }
        let made = Self.marker.withCString { marker in
            params.media_marker = marker
            return mtmd_init_from_file(file.path, model, params)
        }
        guard let made else { throw damagedBundle("has a mmproj that llama.cpp does not load") }
        context = made
        width = Int(llama_model_n_embd_inp(model))
    }

    func free() { mtmd_free(context) }

    /// (N, width) of one prepared picture, and the width: the last image chunk, which is the whole picture.
    func encode(_ picture: Picture) throws -> ([Float], Int) {
        let bitmap = mtmd_bitmap_init(UInt32(picture.width), UInt32(picture.height), picture.rgb)
        let chunks = mtmd_input_chunks_init()
        defer {
            mtmd_input_chunks_free(chunks)
            mtmd_bitmap_free(bitmap)
        }
        var bitmaps = [bitmap]
        let code = Self.marker.withCString { text in
            var words = mtmd_input_text()
            (words.text, words.add_special, words.parse_special) = (text, false, true)
            words.text_len = strlen(text)
            return mtmd_tokenize(context, chunks, &words, &bitmaps, 1)
        }
        guard code == 0 else { throw EdgekitError("llama.cpp does not take the picture: code \(code).", code: "runtime") }
        let every = (0..<mtmd_input_chunks_size(chunks)).map { mtmd_input_chunks_get(chunks, $0) }
        guard let chunk = every.last(where: { mtmd_input_chunk_get_type($0) == MTMD_INPUT_CHUNK_TYPE_IMAGE }),
            mtmd_encode_chunk(context, chunk) == 0, let found = mtmd_get_output_embd(context)
        else { throw EdgekitError("llama.cpp does not encode the picture.", code: "runtime") }
        let tokens = Int(mtmd_input_chunk_get_n_tokens(chunk))
        return (Array(UnsafeBufferPointer(start: found, count: tokens * width)), width)
    }
}

private func damagedBundle(_ what: String) -> EdgekitError {
    EdgekitError("This bundle \(what).", fix: "Export or download it again.", code: "damaged")
}
