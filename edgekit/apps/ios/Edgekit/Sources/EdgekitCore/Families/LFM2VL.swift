/// LFM2-VL: flattened patches of one view of a picture, in one of the export's sizes.
struct LFM2VL: Family {
    let place = "<image>"

    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels {
        let image = try picture.fitted(params)
        let patch = try params.int("encoder_patch_size")
        let (rows, columns) = (image.height / patch, image.width / patch)
        let tables = params.tables
        var values: [Float] = []
        values.reserveCapacity(rows * columns * patch * patch * 3)
        for row in 0..<rows {
            for column in 0..<columns {
                for y in row * patch..<(row + 1) * patch {
                    let start = (y * image.width + column * patch) * 3
                    for place in 0..<patch * 3 { values.append(tables[place % 3][Int(image.rgb[start + place])]) }
                }
            }
        }
        return Pixels(values: values, shape: [patch * patch * 3], count: rows * columns, grid: [1, 1, rows, columns],
            views: [image])
    }

    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)] {
        let factor = try params.int("downsample_factor")
        return [("<|image_start|>", 1), (place, grid[2] * grid[3] / (factor * factor)), ("<|image_end|>", 1)]
    }
}
