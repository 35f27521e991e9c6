#if canImport(CryptoKit)
    import CryptoKit
#endif

/// SHA-256, by the system where it has one, else as FIPS 180-4 writes it.
public struct SHA256Sum {
    #if canImport(CryptoKit)
        private var own = CryptoKit.SHA256()

        public init() {}
        public mutating func update(_ bytes: UnsafeRawBufferPointer) { own.update(bufferPointer: bytes) }
        public mutating func finish() -> String { hex(own.finalize()) }
    #else
        private var own = PlainSHA256()

        public init() {}
        public mutating func update(_ bytes: UnsafeRawBufferPointer) { own.update(bytes) }
        public mutating func finish() -> String { own.finish() }
    #endif

    public static func of(_ bytes: [UInt8]) -> String {
        var sum = SHA256Sum()
        bytes.withUnsafeBytes { sum.update($0) }
        return sum.finish()
    }
}

func hex(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

struct PlainSHA256 {
    private var state: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    private var block: [UInt8] = []
    private var length: UInt64 = 0

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        length += UInt64(bytes.count)
        var rest = bytes[...]
        if !block.isEmpty {
            let taken = rest.prefix(64 - block.count)
            block += taken
            rest = rest.dropFirst(taken.count)
            guard block.count == 64 else { return }
            block.withUnsafeBytes { compress(&state, $0) }
            block.removeAll(keepingCapacity: true)
        }
        while rest.count >= 64 {
            compress(&state, UnsafeRawBufferPointer(rebasing: rest.prefix(64)))
            rest = rest.dropFirst(64)
        }
        block += rest
    }

    mutating func finish() -> String {
        let bits = length * 8
        let zeros = (119 - block.count % 64) % 64
        let tail = [0x80] + [UInt8](repeating: 0, count: zeros) + (0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * $0)) }
        tail.withUnsafeBytes { update($0) }
        return hex(state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * UInt32($0))) } })
    }
}

private let roundConstants: [UInt32] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]

private func compress(_ state: inout [UInt32], _ block: UnsafeRawBufferPointer) {
    func turn(_ value: UInt32, _ by: UInt32) -> UInt32 { value >> by | value << (32 - by) }
    withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { words in
        for place in 0..<16 {
            words[place] = (0..<4).reduce(UInt32(0)) { $0 << 8 | UInt32(block[place * 4 + $1]) }
        }
        for place in 16..<64 {
            let (a, b) = (words[place - 15], words[place - 2])
            let first = turn(a, 7) ^ turn(a, 18) ^ a >> 3
            let second = turn(b, 17) ^ turn(b, 19) ^ b >> 10
            words[place] = words[place - 16] &+ first &+ words[place - 7] &+ second
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        for place in 0..<64 {
            let mixed = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)
            let one = h &+ mixed &+ (e & f ^ ~e & g) &+ roundConstants[place] &+ words[place]
            let two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) &+ (a & b ^ a & c ^ b & c)
            (h, g, f, e, d, c, b, a) = (g, f, e, d &+ one, c, b, a, one &+ two)
        }
        for (place, value) in [a, b, c, d, e, f, g, h].enumerated() { state[place] &+= value }
    }
}
