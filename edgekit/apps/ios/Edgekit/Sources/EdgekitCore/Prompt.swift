/// One part of a turn: a text, or a picture, whose pixels are given beside.
public enum Part: Sendable, Equatable {
    case text(String)
    case image
}

/// One turn of a conversation.
public struct Message: Sendable, Equatable {
    public enum Role: String, Sendable { case system, user, assistant }
    public let role: Role
    public let parts: [Part]

    public init(_ role: Role, _ parts: [Part]) { (self.role, self.parts) = (role, parts) }

    /// A user's turn: pictures first, then the text.
    public static func question(_ text: String, images: Int = 1) -> Message {
        Message(.user, Array(repeating: .image, count: images) + [.text(text)])
    }

    var text: String {
        for case .text(let text) in parts { return text }
        return ""
    }
}

/// A chat template as literal pieces: app/prompt.json. No escaping: what a text holds stands in the prompt.
public struct PromptPieces: Sendable {
    private let json: JSON
    private let blanks: Set<Unicode.Scalar>

    public init(_ json: JSON) throws {
        if let why = json["unsupported"].string {
            throw EdgekitError("The chat template of this model cannot be followed by an app.", why: why, code: "unsupported")
        }
        guard json["format"].int == 1 else {
            throw EdgekitError(
                "\(ModelBundle.prompt) is of format \(json["format"].int ?? 0), and this library reads 1.",
                fix: "Make the app again with a newer edgekit.", code: "unsupported")
        }
        self.json = json
        blanks = Set((json["blanks"].string ?? "").unicodeScalars)
    }

    /// The prompt for the next answer.
    ///
    /// - Parameters:
    ///   - messages: A system text or none, then turns of user and assistant, the user's last.
    public func render(_ messages: [Message]) throws -> String {
        var turns = messages[...]
        let system = turns.first?.role == .system ? turns.removeFirst() : nil
        let wanted = turns.indices.map { ($0 - turns.startIndex) % 2 == 0 ? Message.Role.user : .assistant }
        guard turns.count % 2 == 1, turns.map(\.role) == wanted, turns.allSatisfy({ !$0.parts.isEmpty }) else {
            throw EdgekitError("A conversation is turns of user and assistant, the user's last.", code: "prompt")
        }
        var found = try opening(system, turns.first!)
        for (place, turn) in turns.enumerated() {
            if turn.role == .user {
                found += content(turn.parts)
            } else {
                let own = json["assistant"]
                if own.isNull { throw refused("The model takes one turn.", "assistant") }
                found += text(own["before"]) + trimmed(dropped(turn.text, own["drop"]), own["trim"]) + text(own["after"])
                found += byFirst(json["user"]["before"], turns[turns.startIndex + place + 1])
            }
        }
        return found + text(json["generation"])
    }

    private func opening(_ system: Message?, _ first: Message) throws -> String {
        guard let system else { return byFirst(json["begin"], first) }
        let own = json["system"]
        if own.isNull { throw refused("The model takes no system text.", "system") }
        return text(own["before"]) + trimmed(system.text, own["trim"]) + byFirst(own["after"], first)
    }

    private func content(_ given: [Part]) -> String {
        let (around, piece) = (json["user"]["text"], text(json["image"]["piece"]))
        let parts = json["image"]["first"].bool == true
            ? given.filter { $0 == .image } + given.filter { $0 != .image } : given
        return parts.map { part in
            guard case .text(let own) = part else { return piece }
            return text(around["before"]) + trimmed(own, around["trim"]) + text(around["after"])
        }.joined() + text(json["user"]["after"])
    }

    private func text(_ json: JSON) -> String { json.string ?? "" }

    private func byFirst(_ json: JSON, _ turn: Message) -> String { text(json[turn.parts.first == .image ? "image" : "text"]) }

    private func refused(_ what: String, _ name: String) -> EdgekitError {
        EdgekitError(what, why: json["refused"][name].string ?? "", code: "prompt")
    }

    private func trimmed(_ text: String, _ wanted: JSON) -> String {
        wanted.bool == true ? trimmed(text.scalars[...]) : text
    }

    private func trimmed(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        var rest = scalars.drop(while: blanks.contains)
        while let last = rest.last, blanks.contains(last) { rest.removeLast() }
        return Array(rest).text
    }

    /// An answer without its beginning, such as what the model thought, where the template leaves it out.
    private func dropped(_ text: String, _ drop: JSON) -> String {
        guard let to = drop["to"].string?.scalars, !to.isEmpty else { return text }
        let scalars = text.scalars
        let starts = stride(from: scalars.count - to.count, through: 0, by: -1)
        guard let start = starts.first(where: { scalars[$0..<$0 + to.count].elementsEqual(to) }) else { return text }
        let rest = scalars[(start + to.count)...]
        switch drop["trim"].string {
        case "newlines": return Array(rest.drop { $0 == "\n" }).text
        case "both": return trimmed(rest)
        default: return Array(rest).text
        }
    }

    /// Ids around a prompt's own.
    func around(_ ids: [Int], _ prompt: String) throws -> [Int] {
        let tokens = json["tokens"]
        let leaves = tokens["unless_begins"].string.map { prompt.utf8.starts(with: $0.utf8) } ?? false
        let found = leaves ? ids : (tokens["before"].ints ?? []) + ids + (tokens["after"].ints ?? [])
        if let most = tokens["limit"]["tokens"].int, found.count > most {
            throw EdgekitError(
                "The prompt has \(found.count) tokens, and this model takes \(most).",
                fix: "Ask with fewer pictures, or shorter.", code: "prompt")
        }
        return found
    }
}
