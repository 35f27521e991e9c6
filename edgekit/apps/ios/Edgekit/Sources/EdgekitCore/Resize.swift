import Foundation

/// A picture: red, green, blue of each pixel, row by row.
public struct Picture: Sendable, Equatable {
    public let width: Int
    public let height: Int
    public let rgb: [UInt8]

    public init(width: Int, height: Int, rgb: [UInt8]) throws {
        guard width > 0, height > 0, width <= 1 << 16, height <= 1 << 16, rgb.count == width * height * 3 else {
            throw EdgekitError("A picture of \(width) x \(height) pixels does not have \(rgb.count) bytes.", code: "picture")
        }
        self.init(width, height, rgb)
    }

    init(_ width: Int, _ height: Int, _ rgb: [UInt8]) { (self.width, self.height, self.rgb) = (width, height, rgb) }
}

/// Which pass comes first where both are needed: Pillow's rule up to 12.1, in 12.2 and 12.3, and from 13 on.
public enum ResizeOrder: String, Sendable {
    case columnsFirst = "columns_first"
    case narrowRowsFirst = "narrow_rows_first"
    case tallRowsFirst = "tall_rows_first"

    func rowsFirst(_ picture: Picture, _ width: Int, _ height: Int) -> Bool {
        let lost = picture.height - height
        guard lost > 0 else { return false }
        switch self {
        case .columnsFirst: return false
        case .narrowRowsFirst: return picture.height > 100 * picture.width
        case .tallRowsFirst: return lost > 2 * (picture.width - width)
        }
    }
}

/// Pillow's filters by its numbers.
public enum ResizeFilter: Int, Sendable {
    case nearest = 0, lanczos, bilinear, bicubic, box, hamming

    var support: Double {
        switch self {
        case .nearest: return 0
        case .box: return 0.5
        case .bilinear, .hamming: return 1
        case .bicubic: return 2
        case .lanczos: return 3
        }
    }

    func weight(_ place: Double) -> Double {
        let x = abs(place)
        switch self {
        case .nearest: return 0
        case .box: return place > -0.5 && place <= 0.5 ? 1 : 0
        case .bilinear: return x < 1 ? 1 - x : 0
        case .hamming:
            if x == 0 { return 1 }
            return x >= 1 ? 0 : sin(x * .pi) / (x * .pi) * (0.54 + 0.46 * cos(x * .pi))
        case .bicubic:
            let a = -0.5
            if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
            return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
        case .lanczos: return -3 <= place && place < 3 ? Self.sinc(place) * Self.sinc(place / 3) : 0
        }
    }

    private static func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(x * .pi) / (x * .pi) }
}

extension Picture {
    /// The picture in another size, as Pillow's `resize` makes it for 8 bits a channel, to the last bit.
    ///
    /// Two passes of weights in fixed point, each rounded to 8 bits; a pass that changes no size is left out.
    /// Source: Pillow, src/libImaging/Resample.c; Geometry.c for `nearest`.
    public func resized(_ width: Int, _ height: Int, _ filter: ResizeFilter, _ order: ResizeOrder) -> Picture {
        if (width, height) == (self.width, self.height) { return self }
        if filter == .nearest { return nearest(width, height) }
        if order.rowsFirst(self, width, height) {
            return alongColumns(height, filter).alongRows(width, filter)
        }
        return alongRows(width, filter).alongColumns(height, filter)
    }

    /// Another width.
    private func alongRows(_ width: Int, _ filter: ResizeFilter) -> Picture {
        if width == self.width { return self }
        let weights = Weights(self.width, width, filter)
        var found = [UInt8](repeating: 0, count: width * height * 3)
        found.withUnsafeMutableBufferPointer { to in
            rgb.withUnsafeBufferPointer { from in
                for row in 0..<height {
                    let (start, end) = (row * self.width * 3, row * width * 3)
                    for column in 0..<width { weights.sum(column, from, start, 3, to, end + column * 3) }
                }
            }
        }
        return Picture(width, height, found)
    }

    /// Another height.
    private func alongColumns(_ height: Int, _ filter: ResizeFilter) -> Picture {
        if height == self.height { return self }
        let weights = Weights(self.height, height, filter)
        let line = width * 3
        var found = [UInt8](repeating: 0, count: line * height)
        found.withUnsafeMutableBufferPointer { to in
            rgb.withUnsafeBufferPointer { from in
                for row in 0..<height {
                    for column in 0..<width { weights.sum(row, from, column * 3, line, to, row * line + column * 3) }
                }
            }
        }
        return Picture(width, height, found)
    }

    private func nearest(_ width: Int, _ height: Int) -> Picture {
        let (columns, rows) = (Self.places(self.width, width), Self.places(self.height, height))
        var found: [UInt8] = []
        found.reserveCapacity(width * height * 3)
        for row in rows {
            for column in columns {
                let start = (row * self.width + column) * 3
                found += rgb[start..<start + 3]
            }
        }
        return Picture(width, height, found)
    }

    /// Where each pixel of an edge comes from. The place is added up, as Pillow does it, and not multiplied.
    private static func places(_ from: Int, _ to: Int) -> [Int] {
        let step = Double(from) / Double(to)
        var place = step * 0.5
        return (0..<to).map { _ in
            defer { place += step }
            return min(Int(place), from - 1)
        }
    }
}

/// What each pixel of a new edge takes of the old ones, in fixed point.
private struct Weights {
    private static let bits = 32 - 8 - 2
    private let first: [Int]
    private let taps: [Int]
    private let values: [Int32]
    private let size: Int

    init(_ from: Int, _ to: Int, _ filter: ResizeFilter) {
        let scale = Double(from) / Double(to)
        let stretch = max(scale, 1)
        let support = filter.support * stretch
        size = Int(support.rounded(.up)) * 2 + 1
        var (first, taps) = ([Int](), [Int]())
        var values = [Int32](repeating: 0, count: size * to)
        for place in 0..<to {
            let center = (Double(place) + 0.5) * scale
            let low = max(Int(center - support + 0.5), 0)
            let count = min(Int(center + support + 0.5), from) - low
            let own = (0..<count).map { filter.weight((Double($0 + low) - center + 0.5) * (1 / stretch)) }
            let total = own.reduce(0, +)
            for (tap, weight) in own.enumerated() {
                let share = (total != 0 ? weight / total : weight) * Double(1 << Self.bits)
                values[place * size + tap] = Int32(weight < 0 ? share - 0.5 : share + 0.5)
            }
            first.append(low)
            taps.append(count)
        }
        (self.first, self.taps, self.values) = (first, taps, values)
    }

    /// Write the three channels of one pixel.
    @inline(__always)
    func sum(
        _ place: Int, _ from: UnsafeBufferPointer<UInt8>, _ start: Int, _ step: Int,
        _ to: UnsafeMutableBufferPointer<UInt8>, _ end: Int
    ) {
        let half = Int32(1) << Int32(Self.bits - 1)
        var (red, green, blue) = (half, half, half)
        var at = start + first[place] * step
        values.withUnsafeBufferPointer { values in
            for tap in place * size..<place * size + taps[place] {
                let weight = values[tap]
                red &+= Int32(from[at]) &* weight
                green &+= Int32(from[at + 1]) &* weight
                blue &+= Int32(from[at + 2]) &* weight
                at += step
            }
        }
        to[end] = Self.clip(red)
        to[end + 1] = Self.clip(green)
        to[end + 2] = Self.clip(blue)
    }

    @inline(__always)
    private static func clip(_ value: Int32) -> UInt8 { UInt8(clamping: value >> Int32(bits)) }
}
