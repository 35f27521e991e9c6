/// Unicode's White_Space, written out: `\s` is another set in JavaScript, ICU, Java and Rust.
func isWhiteSpace(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x09...0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: return true
    default: return false
    }
}

/// What Python's str.strip takes away: White_Space and the four separators of ASCII.
func isBlank(_ scalar: Unicode.Scalar) -> Bool { isWhiteSpace(scalar) || (0x1C...0x1F).contains(scalar.value) }

/// As Python's str.strip.
func strip(_ text: String) -> String { stripStart(stripEnd(text)) }

/// As Python's str.lstrip.
func stripStart(_ text: String) -> String { Array(text.unicodeScalars.drop(while: isBlank)).text }

/// As Python's str.rstrip.
func stripEnd(_ text: String) -> String {
    var scalars = text.scalars
    while let last = scalars.last, isBlank(last) { scalars.removeLast() }
    return scalars.text
}
