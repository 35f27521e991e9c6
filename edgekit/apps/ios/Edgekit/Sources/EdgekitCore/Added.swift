/// Tokens that are cut out of a text before anything else: the longest at the leftmost place, as an Aho-Corasick does.
struct AddedTokens: Sendable {
    struct Token: Sendable {
        let id: Int
        let content: [Unicode.Scalar]
        let singleWord, leftStrip, rightStrip, normalized, special: Bool

        init(_ given: JSON) throws {
            guard let id = given["id"].int, let content = given["content"].string else {
                throw damaged("tokenizer.json: an added token without number or content.")
            }
            (self.id, self.content) = (id, content.scalars)
            singleWord = given["single_word"].bool ?? false
            leftStrip = given["lstrip"].bool ?? false
            rightStrip = given["rstrip"].bool ?? false
            normalized = given["normalized"].bool ?? false
            special = given["special"].bool ?? false
        }
    }

    enum Span {
        case text([Unicode.Scalar])
        case token(Int)
    }

    private var nodes: [[Unicode.Scalar: Int]] = [[:]]
    private var ends: [Int: Token] = [:]

    /// - Parameters:
    ///   - normalise: What is done to the contents.
    init(_ tokens: [Token], _ normalise: ([Unicode.Scalar]) -> [Unicode.Scalar]) {
        for token in tokens {
            var node = 0
            for scalar in normalise(token.content) {
                if let below = nodes[node][scalar] {
                    node = below
                } else {
                    nodes[node][scalar] = nodes.count
                    node = nodes.count
                    nodes.append([:])
                }
            }
            if node > 0 { ends[node] = token }
        }
    }

    func split(_ text: [Unicode.Scalar]) -> [Span] {
        var spans: [Span] = []
        var (done, at) = (0, 0)
        while at < text.count {
            guard let (token, end) = longest(text, at) else {
                at += 1
                continue
            }
            var (start, stop) = (at, end)
            at = end
            if token.singleWord, isWord(text, start - 1) || isWord(text, stop) { continue }
            if token.leftStrip { while start > done, isWhiteSpace(text[start - 1]) { start -= 1 } }
            if token.rightStrip { while stop < text.count, isWhiteSpace(text[stop]) { stop += 1 } }
            guard start >= done else { continue }
            if done < start { spans.append(.text(Array(text[done..<start]))) }
            spans.append(.token(token.id))
            done = stop
            at = max(at, stop)
        }
        if done < text.count { spans.append(.text(Array(text[done...]))) }
        return spans
    }

    private func longest(_ text: [Unicode.Scalar], _ start: Int) -> (Token, Int)? {
        var (node, found): (Int, (Token, Int)?) = (0, nil)
        for end in start..<text.count {
            guard let below = nodes[node][text[end]] else { break }
            node = below
            if let token = ends[node] { found = (token, end + 1) }
        }
        return found
    }

    private func isWord(_ text: [Unicode.Scalar], _ place: Int) -> Bool {
        guard text.indices.contains(place) else { return false }
        let properties = text[place].properties
        switch properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
        default: return properties.isAlphabetic || properties.isJoinControl
        }
    }
}
