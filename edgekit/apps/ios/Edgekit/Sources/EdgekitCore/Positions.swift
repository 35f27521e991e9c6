/// Positions of a prompt: some axes of one number for each token.
public typealias Positions = [[Int]]

/// Of a model that counts image tokens like any other: 0, 1, 2, ...
func plainPositions(_ count: Int) -> Positions { [Array(0..<count)] }

/// M-RoPE: frame, row and column. A picture's tokens start where the text before stopped, and the text after goes on
/// behind the picture's largest position.
func rotaryPositions(_ ids: [Int], _ grids: [[Int]], merge: Int, image: Int) throws -> Positions {
    var found: Positions = [[], [], []]
    var (images, place, start) = (grids.makeIterator(), 0, 0)
    while place < ids.count {
        guard ids[place] == image else {
            for axis in 0..<3 { found[axis].append(start) }
            (place, start) = (place + 1, start + 1)
            continue
        }
        guard let grid = images.next(), grid.count == 3 else { throw misplaced() }
        let (rows, columns) = (grid[1] / merge, grid[2] / merge)
        for frame in 0..<grid[0] {
            for row in 0..<rows {
                for column in 0..<columns {
                    found[0].append(start + frame)
                    found[1].append(start + row)
                    found[2].append(start + column)
                }
            }
        }
        place += grid[0] * rows * columns
        start += max(rows, columns)
    }
    guard place == ids.count else { throw misplaced() }
    return found
}

/// A token's position, and for a picture's tokens that of its first: they see each other in both directions.
func blockPositions(_ ids: [Int], image: Int) -> Positions {
    var blocks: [Int] = []
    for (place, id) in ids.enumerated() {
        let goesOn = place > 0 && id == image && ids[place - 1] == image
        blocks.append(goesOn ? blocks[place - 1] : place)
    }
    return [Array(0..<ids.count), blocks]
}

private func misplaced() -> EdgekitError {
    EdgekitError(
        "The prompt's image tokens are not those of its pictures.",
        why: "A literal image token in a text counts too.", fix: "Leave it out of the question.", code: "prompt")
}
