import Foundation

/// What the vision encoder sees of one picture.
public struct Pixels: Sendable, Equatable {
    /// All entries one after the other: tiles (3, H, W), or flattened patches.
    public let values: [Float]
    /// Of one entry.
    public let shape: [Int]
    public let count: Int
    /// How they lie, in the family's own terms.
    public let grid: [Int]
    /// Before normalising: each tile, or the one picture that the patches are of; for a runtime that normalises itself.
    public let views: [Picture]
}

/// A bundle's image parameters, as edgekit/families/FAMILY.py reads them; model.json has them as `preprocessing`.
public struct Preprocessing: Sendable {
    public let json: JSON
    public let filter: ResizeFilter
    public let order: ResizeOrder
    let rescale: Double
    let mean: [Double]
    let std: [Double]

    public init(_ json: JSON) throws {
        self.json = json
        guard let filter = json["resample"].int.flatMap(ResizeFilter.init) else {
            throw damaged("model.json: preprocessing.resample is no filter.")
        }
        let named = json["resize_order"].string ?? ResizeOrder.columnsFirst.rawValue
        guard let order = ResizeOrder(rawValue: named) else {
            throw EdgekitError(
                "This bundle resizes by the rule \(named), which this library does not know.",
                fix: "Make the app again with a newer edgekit.", code: "unsupported")
        }
        (self.filter, self.order) = (filter, order)
        guard let rescale = json["rescale_factor"].double, let mean = json["mean"].doubles, mean.count == 3,
            let std = json["std"].doubles, std.count == 3, !std.contains(0)
        else { throw damaged("model.json: preprocessing does not say how pixels are normalised.") }
        (self.rescale, self.mean, self.std) = (rescale, mean, std)
    }

    func int(_ name: String) throws -> Int {
        guard let value = json[name].int, value > 0 else { throw damaged("model.json: preprocessing.\(name) is no number.") }
        return value
    }

    func pair(_ name: String) throws -> (Int, Int) {
        guard let value = json[name].ints, value.count == 2, value[0] > 0, value[1] > 0 else {
            throw damaged("model.json: preprocessing.\(name) is no pair of numbers.")
        }
        return (value[0], value[1])
    }

    func flag(_ name: String) -> Bool { json[name].bool ?? false }

    /// For each channel, the number that each of the 256 values becomes: rescaled in double precision, the rest in
    /// single, as the reference does.
    var tables: [[Float]] {
        (0..<3).map { channel in
            (0..<256).map { value in
                (Float(Double(value) * rescale) - Float(mean[channel])) / Float(std[channel])
            }
        }
    }
}

extension Picture {
    static let mostTiles = 4096

    func resized(_ width: Int, _ height: Int, _ params: Preprocessing) throws -> Picture {
        guard width > 0, height > 0, width <= 1 << 16, height <= 1 << 16 else {
            throw EdgekitError("A picture cannot be made \(width) x \(height) pixels.", code: "picture")
        }
        return resized(width, height, params.filter, params.order)
    }

    /// The picture's tiles, row by row; it is of whole tiles.
    func cut(_ width: Int, _ height: Int) throws -> [Picture] {
        let (columns, rows) = (self.width / width, self.height / height)
        guard columns * rows <= Self.mostTiles else {
            throw EdgekitError(
                "A picture would be cut into \(columns * rows) tiles of \(width) x \(height).",
                why: "No model takes more than \(Self.mostTiles).", code: "picture")
        }
        return (0..<rows).flatMap { row in
            (0..<columns).map { crop($0 * width, row * height, width, height) }
        }
    }

    private func crop(_ x: Int, _ y: Int, _ width: Int, _ height: Int) -> Picture {
        var found: [UInt8] = []
        found.reserveCapacity(width * height * 3)
        for row in y..<y + height {
            let start = (row * self.width + x) * 3
            found += rgb[start..<start + width * 3]
        }
        return Picture(width, height, found)
    }

    /// The picture in the nearest of an export's sizes: in shape, then in area, by their logarithms; then the first.
    func fitted(_ params: Preprocessing) throws -> Picture {
        let sizes = (params.json["sizes"].array ?? []).compactMap(\.ints).filter { $0.count == 2 && $0[0] > 0 && $0[1] > 0 }
        guard var best = sizes.first else {
            throw damaged("This bundle names no picture sizes, and its family is exported for some.")
        }
        for size in sizes.dropFirst() where gap(size) < gap(best) { best = size }
        return try resized(best[0], best[1], params)
    }

    private func gap(_ size: [Int]) -> (Double, Double) {
        let shape = log(Double(size[0]) / Double(size[1])) - log(Double(width) / Double(height))
        let area = log(Double(size[0] * size[1])) - log(Double(width * height))
        return ((abs(shape) * 1e6).rounded(.toNearestOrEven), abs(area))
    }

    /// Tiles of one size as (M, 3, H, W).
    static func pixels(_ tiles: [Picture], _ params: Preprocessing, grid: [Int]) -> Pixels {
        let (width, height) = (tiles[0].width, tiles[0].height)
        let area = width * height
        var values = [Float](repeating: 0, count: tiles.count * 3 * area)
        let tables = params.tables
        values.withUnsafeMutableBufferPointer { values in
            for (number, tile) in tiles.enumerated() {
                for channel in 0..<3 {
                    let start = (number * 3 + channel) * area
                    for place in 0..<area { values[start + place] = tables[channel][Int(tile.rgb[place * 3 + channel])] }
                }
            }
        }
        return Pixels(values: values, shape: [3, height, width], count: tiles.count, grid: grid, views: tiles)
    }
}
