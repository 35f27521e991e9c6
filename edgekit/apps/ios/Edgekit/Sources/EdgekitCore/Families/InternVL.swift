/// InternVL3: up to max_tiles square tiles of the grid nearest to the picture's shape, and a view of the whole.
struct InternVL: Family {
    let place = "<IMG_CONTEXT>"

    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels {
        let (width, height) = try params.pair("tile")
        if try params.int("max_tiles") <= 1 {
            let tile = params.flag("do_resize") ? try picture.resized(width, height, params) : picture
            return Picture.pixels([tile], params, grid: [1])
        }
        let (columns, rows) = try canvas(picture, params, area: width * height)
        var tiles = try picture.resized(columns * width, rows * height, params).cut(width, height)
        if tiles.count > 1 { tiles.append(try picture.resized(width, height, params)) }
        return Picture.pixels(tiles, params, grid: [tiles.count])
    }

    /// (columns, rows) nearest to the picture's shape; of two as near, the larger while the picture can fill half.
    private func canvas(_ picture: Picture, _ params: Preprocessing, area: Int) throws -> (Int, Int) {
        let most = try params.int("max_tiles")
        let limits = (params.json["min_tiles"].int ?? 1)...max(most, params.json["min_tiles"].int ?? 1)
        var shapes: [(Int, Int)] = []
        for columns in 1...most { for rows in 1...most where limits.contains(columns * rows) { shapes.append((columns, rows)) } }
        // Sorting must keep the order of shapes of one area, which Swift's sort does not promise.
        let sorted = shapes.enumerated().sorted { one, other in
            let (first, second) = (one.element.0 * one.element.1, other.element.0 * other.element.1)
            return first == second ? one.offset < other.offset : first < second
        }
        let ratio = Double(picture.width) / Double(picture.height)
        var (best, nearest) = ((1, 1), Double.infinity)
        for (_, shape) in sorted {
            let gap = abs(ratio - Double(shape.0) / Double(shape.1))
            let fills = Double(picture.width * picture.height) > 0.5 * Double(area * shape.0 * shape.1)
            if gap < nearest || (gap == nearest && fills) { (best, nearest) = (shape, gap) }
        }
        return best
    }

    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)] {
        [("<img>", 1), (place, try params.int("image_seq_len") * grid[0]), ("</img>", 1)]
    }
}
