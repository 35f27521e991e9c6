import Foundation

/// LLaVA-OneVision: tiles of the best canvas behind a view of the whole; their features are laid out as the picture,
/// the canvas's padding is cut off, too many are scaled down, and a newline ends each row.
struct LlavaOneVision: Family {
    let place = "<image>"

    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels {
        let tile = try params.int("tile")
        let (height, width) = try canvas(picture.height, picture.width, params)
        let (across, down) = (Double(width) / Double(picture.width), Double(height) / Double(picture.height))
        let fitted = across < down
            ? (width, min(Int((Double(picture.height) * across).rounded(.up)), height))
            : (min(Int((Double(picture.width) * down).rounded(.up)), width), height)
        let inner = try picture.resized(fitted.0, fitted.1, params)
        let whole = inner.pasted(width, height, (width - fitted.0) / 2, (height - fitted.1) / 2)
        let tiles = try [picture.resized(tile, tile, params)] + whole.cut(tile, tile)
        return Picture.pixels(tiles, params, grid: [picture.height, picture.width])
    }

    /// (height, width) of the canvas that keeps most of a picture's pixels; of two as good, the one with less waste.
    private func canvas(_ high: Int, _ wide: Int, _ params: Preprocessing) throws -> (Int, Int) {
        var (best, most, least) = ((0, 0), 0, Int.max)
        for size in (params.json["canvases"].array ?? []).compactMap(\.ints) where size.count == 2 {
            let scale = min(Double(size[1]) / Double(wide), Double(size[0]) / Double(high))
            let kept = min(Int(Double(wide) * scale) * Int(Double(high) * scale), high * wide)
            let waste = size[0] * size[1] - kept
            if kept > most || (kept == most && waste < least) { (best, most, least) = ((size[0], size[1]), kept, waste) }
        }
        guard best.0 > 0, best.1 > 0 else { throw damaged("model.json: preprocessing.canvases has none for this picture.") }
        return best
    }

    /// Of a picture's tiles: rows and columns of tiles, of tokens without the padding, and of tokens in the end.
    private struct Layout {
        let perSide, rows, columns, keptRows, keptColumns, outRows, outColumns: Int
    }

    private func layout(_ grid: [Int], _ params: Preprocessing) throws -> Layout {
        let (perSide, tile) = (try params.int("per_side"), try params.int("tile"))
        let (height, width) = try canvas(grid[0], grid[1], params)
        let (rows, columns) = (height / tile, width / tile)
        var (keptRows, keptColumns) = (rows * perSide, columns * perSide)
        if Double(grid[1]) / Double(grid[0]) > Double(keptColumns) / Double(keptRows) {
            keptRows -= (keptRows - sevenDigits(Double(grid[0]) * (Double(keptColumns) / Double(grid[1])))) / 2 * 2
        } else {
            keptColumns -= (keptColumns - sevenDigits(Double(grid[1]) * (Double(keptRows) / Double(grid[0])))) / 2 * 2
        }
        let most = Double(try params.int("max_tiles") * perSide * perSide)
        let shrink = (Double(keptRows * keptColumns) / most).squareRoot()
        let out = shrink > 1.1
            ? (Int((Double(keptRows) / shrink).rounded(.down)), Int((Double(keptColumns) / shrink).rounded(.down)))
            : (keptRows, keptColumns)
        return Layout(
            perSide: perSide, rows: rows, columns: columns, keptRows: keptRows, keptColumns: keptColumns,
            outRows: out.0, outColumns: out.1)
    }

    /// Python's int(round(value, 7)).
    private func sevenDigits(_ value: Double) -> Int { Int(Double(String(format: "%.7f", value)) ?? value) }

    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)] {
        let own = try layout(grid, params)
        return [(place, own.perSide * own.perSide + own.outRows * (own.outColumns + 1))]
    }

    func pack(_ features: [Float], width: Int, _ grids: [[Int]], _ params: Preprocessing) throws -> [Float]? {
        let perSide = try params.int("per_side")
        let tokens = perSide * perSide + 1  // the last one of each tile is the newline
        var (packed, start): ([Float], Int) = ([], 0)
        for grid in grids {
            let own = try layout(grid, params)
            guard (start + 1 + own.rows * own.columns) * tokens * width <= features.count else {
                throw damaged("The vision encoder gives fewer features than the picture has tiles.")
            }
            let first = start * tokens * width
            packed += features[first..<first + (tokens - 1) * width]
            var laid = Plane(rows: own.keptRows, columns: own.keptColumns, width: width)
            let (top, left) = ((own.rows * perSide - own.keptRows) / 2, (own.columns * perSide - own.keptColumns) / 2)
            for row in 0..<own.keptRows {
                for column in 0..<own.keptColumns {
                    let (y, x) = (row + top, column + left)
                    let tile = start + 1 + y / perSide * own.columns + x / perSide
                    let from = (tile * tokens + y % perSide * perSide + x % perSide) * width
                    laid.values += features[from..<from + width]
                }
            }
            laid = laid.scaled(own.outRows).turned().scaled(own.outColumns).turned()
            let newline = features[first + (tokens - 1) * width..<first + tokens * width]
            for row in 0..<own.outRows {
                packed += laid.values[row * own.outColumns * width..<(row + 1) * own.outColumns * width]
                packed += newline
            }
            start += 1 + own.rows * own.columns
        }
        return packed
    }
}

/// Features (rows, columns, D).
private struct Plane {
    let rows, columns, width: Int
    var values: [Float] = []

    /// Linear interpolation along the rows, as torch's interpolate without aligned corners.
    func scaled(_ count: Int) -> Plane {
        if count == rows { return self }
        var found = Plane(rows: count, columns: columns, width: width)
        let line = columns * width
        for row in 0..<count {
            let place = max((Float(row) + 0.5) * Float(Double(rows) / Double(count)) - 0.5, 0)
            let low = Int(place)
            let (high, share) = (min(low + 1, rows - 1), place - Float(low))
            for at in 0..<line {
                found.values.append(values[low * line + at] * (1 - share) + values[high * line + at] * share)
            }
        }
        return found
    }

    func turned() -> Plane {
        var found = Plane(rows: columns, columns: rows, width: width)
        for column in 0..<columns {
            for row in 0..<rows {
                let start = (row * columns + column) * width
                found.values += values[start..<start + width]
            }
        }
        return found
    }
}

extension Picture {
    /// The picture on a black canvas.
    fileprivate func pasted(_ width: Int, _ height: Int, _ x: Int, _ y: Int) -> Picture {
        var found = [UInt8](repeating: 0, count: width * height * 3)
        for row in 0..<self.height {
            let (from, to) = (row * self.width * 3, ((row + y) * width + x) * 3)
            found.replaceSubrange(to..<to + self.width * 3, with: rgb[from..<from + self.width * 3])
        }
        return Picture(width, height, found)
    }
}
