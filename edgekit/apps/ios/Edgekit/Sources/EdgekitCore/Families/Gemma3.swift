/// Gemma 3: one square view of a picture, whose tokens see each other in both directions.
struct Gemma3: Family {
    let place = "<start_of_image>"

    func preprocess(_ picture: Picture, _ params: Preprocessing) throws -> Pixels {
        let (width, height) = try params.pair("tile")
        let view = params.flag("do_resize") ? try picture.resized(width, height, params) : picture
        return Picture.pixels([view], params, grid: [1])
    }

    func filling(_ grid: [Int], _ params: Preprocessing) throws -> [(text: String, times: Int)] {
        [("\n\n<start_of_image>", 1), ("<image_soft_token>", try params.int("image_seq_len")), ("<end_of_image>\n\n", 1)]
    }

    func positions(_ ids: [Int], _ grids: [[Int]], _ params: Preprocessing) throws -> Positions {
        blockPositions(ids, image: try params.int("image_token_id"))
    }
}
