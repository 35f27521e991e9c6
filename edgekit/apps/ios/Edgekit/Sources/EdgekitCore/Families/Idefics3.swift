/// Idefics3 and SmolVLM: resized by the longer edge, perhaps split into tiles beside a view of the whole.
struct Idefics3: Family {
    let place = "<image>"
    private let fake = "<fake_token_around_image>"
    private let mostEdge = 4096  // the processor's own bound on a resized picture

    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels {
        let tile = try params.int("tile")
        var image = picture
        if params.flag("do_resize") {
            let size = params.json["resized"].isNull
                ? longestEdge(image.width, image.height, try params.int("longest_edge")) : try params.pair("resized")
            image = try image.resized(size.0, size.1, params)
        }
        if !params.flag("split") { return Picture.pixels([try image.resized(tile, tile, params)], params, grid: [0, 0]) }
        let (width, height) = wholeTiles(image.width, image.height, tile)
        image = try image.resized(width, height, params)
        if width <= tile, height <= tile { return Picture.pixels([image], params, grid: [0, 0]) }
        let tiles = try image.cut(tile, tile) + [image.resized(tile, tile, params)]
        return Picture.pixels(tiles, params, grid: [height / tile, width / tile])
    }

    /// The longer edge at `longest`, the shorter made even.
    private func longestEdge(_ width: Int, _ height: Int, _ longest: Int) -> (Int, Int) {
        var (width, height) = (width, height)
        var ratio = Double(width) / Double(height)
        if width >= height {
            (width, height) = (longest, Int(Double(longest) / ratio))
            height += height % 2
        } else {
            (width, height) = (Int(Double(longest) * ratio), longest)
            width += width % 2
        }
        (width, height) = (max(width, 1), max(height, 1))
        ratio = Double(width) / Double(height)
        if width >= height, width > mostEdge {
            (width, height) = (mostEdge, Int(Double(mostEdge) / ratio))
        } else if height > width, height > mostEdge {
            (width, height) = (Int(Double(mostEdge) * ratio), mostEdge)
        }
        return (max(width, 1), max(height, 1))
    }

    /// Rounded up to whole tiles, the longer edge first.
    private func wholeTiles(_ width: Int, _ height: Int, _ tile: Int) -> (Int, Int) {
        func whole(_ edge: Int) -> Int { (edge + tile - 1) / tile * tile }
        let ratio = Double(width) / Double(height)
        if width >= height {
            return (whole(width), whole(Int(Double(whole(width)) / ratio)))
        }
        return (whole(Int(Double(whole(height)) * ratio)), whole(height))
    }

    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)] {
        let slots = (text: place, times: try params.int("image_seq_len"))
        var parts: [(text: String, times: Int)] = []
        for row in 0..<grid[0] {
            for column in 0..<grid[1] { parts += [("\(fake)<row_\(row + 1)_col_\(column + 1)>", 1), slots] }
            parts.append(("\n", 1))
        }
        if grid[0] > 0 { parts.append(("\n", 1)) }
        return parts + [("\(fake)<global-img>", 1), slots, (fake, 1)]
    }
}
