import Foundation
import XCTest

@testable import EdgekitCore

/// The core against Python's own numbers.
final class CoreTests: XCTestCase {
    func testEveryFilterAndOrderResizesAsPillow() throws {
        let cases = try Vectors.cases("resize")
        XCTAssertGreaterThan(cases.count, 100)
        XCTAssertEqual(Set(cases.compactMap { $0["order"].string }).count, 3)
        for one in cases {
            let picture = try Picture(
                width: one["width"].int!, height: one["height"].int!, rgb: readBytes(Vectors.core(one["file"].string!)))
            let (filter, order) = (ResizeFilter(rawValue: one["resample"].int!)!, ResizeOrder(rawValue: one["order"].string!)!)
            let found = picture.resized(one["to"][0].int!, one["to"][1].int!, filter, order)
            XCTAssertEqual(
                SHA256Sum.of(found.rgb), one["sha256"].string,
                "\(picture.width)x\(picture.height) to \(found.width)x\(found.height), \(filter), \(order)")
        }
    }

    func testTokenizersOfEveryShape() throws {
        let names = try Vectors.names("tokenizers").filter { $0 != "splits" }
        XCTAssertEqual(names.count, 7)
        for name in names {
            let tokenizer = try Tokenizer(readBytes(Vectors.core("tokenizers/\(name)/tokenizer.json")))
            let strings = try readJSON(Vectors.core("tokenizers/\(name)/strings.json"))["strings"].array ?? []
            XCTAssertGreaterThan(strings.count, 400)
            for one in strings {
                let (text, ids) = (one["text"].string!, one["ids"].ints!)
                XCTAssertEqual(tokenizer.encode(text), ids, "\(name): \(text.debugDescription)")
                let back = tokenizer.decode(ids)
                XCTAssertTrue(back.isExactly(one["decoded"].string!), "\(name): \(ids) is \(back.debugDescription)")
            }
        }
    }

    func testTokenizersOfOtherKindsAreRefusedByName() throws {
        let names = try Vectors.names("refused")
        XCTAssertGreaterThan(names.count, 5)
        for name in names {
            XCTAssertThrowsError(try Tokenizer(readBytes(Vectors.core("refused/\(name)"))), name) {
                XCTAssertTrue("\($0)".contains(name.replacingOccurrences(of: ".json", with: "")), "\(name): \($0)")
            }
        }
        // A model that splits by \w: White_Space is written out here, word characters are not.
        XCTAssertThrowsError(try Tokenizer(readBytes(Vectors.core("tokenizers/splits/tokenizer.json")))) {
            XCTAssertTrue("\($0)".contains("is not supported"), "\($0)")
        }
    }

    func testGenerationSettings() throws {
        let cases = try Vectors.cases("rules")
        XCTAssertGreaterThan(cases.count, 100)
        for one in cases {
            let rules = Rules(
                one["generation"], prompt: one["prompt"].ints!, limit: one["limit"].int!, ends: Set(one["ends"].ints!))
            var logits = one["logits"].floats
            rules.apply(&logits, one["ids"].ints!)
            XCTAssertEqual(logits, one["changed"].floats, "\(one["generation"]) \(one["name"])")
        }
    }

    func testChancesOfSampling() throws {
        for one in try Vectors.cases("shares") {
            let sampling = try Sampling(
                temperature: one["temperature"].double!, topP: one["top_p"].double!, topK: one["top_k"].int!)
            let found = sampling.shares(one["logits"].floats[...])
            for (own, wanted) in zip(found, one["shares"].doubles!) { XCTAssertEqual(own, wanted, accuracy: 1e-12) }
        }
    }

    func testStreams() throws {
        let cases = try Vectors.cases("streams")
        XCTAssertGreaterThan(cases.count, 30)
        for one in cases {
            let parts = one["parts"].array!.map { $0.ints!.map(UInt8.init) }
            var stream = TextStream((one["stops"].array ?? []).compactMap(\.string)) { ids in
                stripStart(String(decoding: ids.flatMap { parts[$0] }, as: UTF8.self))
            }
            let shown = one["shown"].array!.compactMap(\.string)
            XCTAssertEqual(shown.indices.map { stream.push($0) }, shown)
            XCTAssertEqual(stream.finish(), one["rest"].string)
            XCTAssertEqual(stream.text, one["text"].string)
            XCTAssertEqual(stream.stopped, one["stopped"].bool)
        }
    }

    func testGreedyRefusesWhatIsNoNumber() throws {
        XCTAssertEqual(try greedy([1, 3, 3, 2]), 1)
        XCTAssertThrowsError(try greedy([1, .nan, 3]))
        XCTAssertThrowsError(try greedy([1, .infinity, 3]))
        XCTAssertEqual(argmax([-.infinity, -.infinity]), 0)
    }

    func testSamplingIsItsSeeds() throws {
        func drawn(_ seed: UInt64) throws -> [Int] {
            var chooser = Chooser(try Sampling(temperature: 1, seed: seed), Rules(.null, prompt: [], limit: 1, ends: []), drawable: 3)
            return try (0..<200).map { _ in try chooser.choose([0, 1, 0.5, 9], []) }
        }
        XCTAssertEqual(try drawn(1), try drawn(1))
        XCTAssertNotEqual(try drawn(1), try drawn(2))
        XCTAssertEqual(Set(try drawn(1)), [0, 1, 2])  // the fourth is beyond the tokenizer
        XCTAssertThrowsError(try Sampling(temperature: -1))
        XCTAssertThrowsError(try Sampling(topP: 0))
    }
}

/// What needs no vectors.
final class PlainTests: XCTestCase {
    func testSHA256() {
        XCTAssertEqual(SHA256Sum.of([]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(SHA256Sum.of(Array("abc".utf8)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let million = [UInt8](repeating: UInt8(ascii: "a"), count: 1_000_000)
        var sum = PlainSHA256()
        for start in stride(from: 0, to: million.count, by: 977) {
            million[start..<min(start + 977, million.count)].withUnsafeBytes { sum.update($0) }
        }
        XCTAssertEqual(sum.finish(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    func testJSON() throws {
        func parse(_ text: String) throws -> JSON { try JSON(parsing: Array(text.utf8), source: "x") }
        let value = try parse(#" {"\#u{E9}":1,"e\#u{301}":2,"a":[true,null,-1.5e2,"\ud83d\ude00\n\ud800"]} "#)
        XCTAssertEqual(value.object?.count, 3)  // two spellings of one letter are two keys
        XCTAssertEqual(value["\u{E9}"].int, 1)
        XCTAssertEqual(value["e\u{301}"].int, 2)
        XCTAssertEqual(value["a"][2].double, -150)
        XCTAssertEqual(value["a"][3].string, "😀\n\u{FFFD}")
        for wrong in ["", "{", "[1,]", "{\"a\" 1}", "01x", "\"\u{01}\"", "nul", "[1] 2", "\"\\q\"", "+1", String(repeating: "[", count: 100)] {
            XCTAssertThrowsError(try parse(wrong), wrong)
        }
    }

    func testPatternsThatAreNotKnownAreRefusedByName() {
        for wrong in ["(a", "a)", "[a", "(ab)*", "^a", "a$", #"\w"#, #"\p{Greek}"#, "[[:alpha:]]", "(?<=a)b", "(?i:é)", "a{2"] {
            XCTAssertThrowsError(try Pattern(wrong), wrong) {
                XCTAssertTrue("\($0)".contains("is not supported"), "\($0)")
            }
        }
    }

    func testPatterns() throws {
        func cut(_ pattern: String, _ text: String) throws -> [String] {
            let scalars = text.scalars
            return try Pattern(pattern).matches(scalars).map { Array(scalars[$0]).text }
        }
        XCTAssertEqual(try cut("a{2,3}", "aaaaa a aa"), ["aaa", "aa", "aa"])
        XCTAssertEqual(try cut("a+?b?", "aab"), ["a", "ab"])
        XCTAssertEqual(try cut("a++a|b", "aaab"), ["b"])
        XCTAssertEqual(try cut("(?i:'s)|x(?=y)", "'S 'ſ xy xz"), ["'S", "'ſ", "x"])
        XCTAssertEqual(try cut(#"[^\p{L}\d-]+"#, "ab--12!?-é"), ["!?"])
        XCTAssertEqual(try cut("e\u{301}", "\u{E9} e\u{301}"), ["e\u{301}"])
    }

    func testPositions() throws {
        XCTAssertEqual(blockPositions([1, 9, 9, 2, 9], image: 9), [[0, 1, 2, 3, 4], [0, 1, 1, 3, 4]])
        let found = try rotaryPositions([1, 9, 9, 9, 9, 2], [[1, 4, 4]], merge: 2, image: 9)
        XCTAssertEqual(found, [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]])
        XCTAssertThrowsError(try rotaryPositions([9], [], merge: 2, image: 9))
    }

    func testPicturesAreTurnedAndLaidOverWhite() throws {
        let picture = Picture(2, 1, [1, 1, 1, 2, 2, 2])
        XCTAssertEqual(picture.turned(6), Picture(1, 2, [1, 1, 1, 2, 2, 2]))
        XCTAssertEqual(picture.turned(8), Picture(1, 2, [2, 2, 2, 1, 1, 1]))
        XCTAssertEqual(picture.turned(2), Picture(2, 1, [2, 2, 2, 1, 1, 1]))
        XCTAssertEqual(Picture.overWhite([10, 20, 30, 255, 10, 20, 30, 0]), [10, 20, 30, 255, 255, 255])
        XCTAssertThrowsError(try Picture(width: 2, height: 2, rgb: [0]))
    }

    func testNamesOutsideOfABundleAreRefused() {
        for wrong in ["../a", "/a", "a/../../b", "a//b", "", "a\\b", "./a"] { XCTAssertFalse(ModelBundle.isInside(wrong), wrong) }
        XCTAssertTrue(ModelBundle.isInside("onnx/a.onnx"))
        XCTAssertTrue(ModelBundle.isHash(String(repeating: "0aF9", count: 16)))
        for wrong in [String(repeating: "../a", count: 16), String(repeating: "g", count: 64), "00"] {
            XCTAssertFalse(ModelBundle.isHash(wrong), wrong)
        }
    }
}
