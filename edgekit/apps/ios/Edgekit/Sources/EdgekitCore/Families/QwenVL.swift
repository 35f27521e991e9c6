/// Qwen2.5-VL and Qwen3-VL: flattened patches of a picture in one of the export's sizes, and three-axis positions.
struct QwenVL: Family {
    let place = "<|image_pad|>"

    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels {
        let image = try picture.fitted(params)
        let (patch, merge, frames) = (try params.int("patch"), try params.int("merge"), try params.int("temporal_patch"))
        guard image.width % (patch * merge) == 0, image.height % (patch * merge) == 0 else {
            throw damaged("model.json: a picture size does not divide into blocks of \(patch * merge).")
        }
        let (rows, columns) = (image.height / patch, image.width / patch)
        let tables = params.tables
        var values: [Float] = []
        values.reserveCapacity(rows * columns * 3 * frames * patch * patch)
        // The patches of one token stand together.
        for block in 0..<rows / merge * (columns / merge) {
            let (down, across) = (block / (columns / merge) * merge, block % (columns / merge) * merge)
            for part in 0..<merge * merge {
                let (top, left) = ((down + part / merge) * patch, (across + part % merge) * patch)
                for channel in 0..<3 {
                    for _ in 0..<frames { append(&values, image, top, left, patch, channel, tables[channel]) }
                }
            }
        }
        return Pixels(
            values: values, shape: [3 * frames * patch * patch], count: rows * columns, grid: [1, rows, columns],
            views: [image])
    }

    private func append(
        _ values: inout [Float], _ image: Picture, _ top: Int, _ left: Int, _ patch: Int, _ channel: Int, _ table: [Float]
    ) {
        for y in top..<top + patch {
            let start = (y * image.width + left) * 3 + channel
            for x in 0..<patch { values.append(table[Int(image.rgb[start + x * 3])]) }
        }
    }

    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)] {
        let merge = try params.int("merge")
        return [(place, grid.reduce(1, *) / (merge * merge))]
    }

    func positions(_ ids: [Int], _ grids: [[Int]], _ params: Preprocessing) throws -> Positions {
        try rotaryPositions(ids, grids, merge: params.int("merge"), image: params.int("image_token_id"))
    }
}
