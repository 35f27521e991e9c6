import XCTest

@testable import EdgekitCore

/// Prompt pieces by hand; the golden vectors of real templates are in the bundles.
final class PromptTests: XCTestCase {
    private func pieces(_ more: String = "") throws -> PromptPieces {
        let text = """
            {"format": 1, "begin": {"text": "B: ", "image": "B:"}, "image": {"piece": "<i>", "first": true},
             "system": {"before": "S:", "after": {"text": "|B: ", "image": "|B:"}, "trim": true},
             "user": {"before": {"text": "U: ", "image": "U:"}, "text": {"before": "(", "after": ")", "trim": true}, "after": ";"},
             "assistant": {"before": "A:", "after": ".", "trim": false, "drop": {"to": "</t>", "trim": "newlines"}},
             "generation": "A:", "blanks": " \\n", "tokens": {"before": [7], "after": [8], "unless_begins": "B: (x", "limit": {"tokens": 5}}\(more)}
            """
        return try PromptPieces(JSON(parsing: Array(text.utf8), source: "prompt.json"))
    }

    func testConversations() throws {
        let own = try pieces()
        XCTAssertEqual(try own.render([.question(" hi\n", images: 0)]), "B: (hi);A:")
        XCTAssertEqual(try own.render([Message(.user, [.text("a"), .image])]), "B: <i>(a);A:")
        let turns = [
            Message(.system, [.text(" be brief ")]), .question("a", images: 1), Message(.assistant, [.text("x</t>\n\n yes ")]),
            .question("b", images: 0),
        ]
        XCTAssertEqual(try own.render(turns), "S:be brief|B:<i>(a);A: yes .U: (b);A:")
    }

    func testOtherOrdersAreRefused() throws {
        let own = try pieces()
        XCTAssertThrowsError(try own.render([]))
        XCTAssertThrowsError(try own.render([Message(.assistant, [.text("a")])]))
        XCTAssertThrowsError(try own.render([.question("a"), .question("b")]))
        XCTAssertThrowsError(try own.render([Message(.user, [])]))
    }

    func testWhatTheModelDoesNotTakeIsSaid() throws {
        let own = try pieces(#", "system": null, "assistant": null, "refused": {"system": "no role", "assistant": "no turn"}"#)
        XCTAssertThrowsError(try own.render([Message(.system, [.text("a")]), .question("b")])) {
            XCTAssertTrue("\($0)".contains("no role"))
        }
        XCTAssertThrowsError(try own.render([.question("a"), Message(.assistant, [.text("b")]), .question("c")]))
        XCTAssertThrowsError(try PromptPieces(JSON(parsing: Array(#"{"format":1,"unsupported":"dates"}"#.utf8), source: "x"))) {
            XCTAssertTrue("\($0)".contains("dates"))
        }
        XCTAssertThrowsError(try PromptPieces(JSON(parsing: Array(#"{"format":2}"#.utf8), source: "x")))
    }

    func testTokensAround() throws {
        let own = try pieces()
        XCTAssertEqual(try own.around([1], "B: (y"), [7, 1, 8])
        XCTAssertEqual(try own.around([1], "B: (x"), [1])
        XCTAssertThrowsError(try own.around([1, 2, 3, 4], ""))
    }
}
