import Foundation

/// What a user or a developer can put right: what failed, why, and what to do next.
public struct EdgekitError: Error, Equatable, Sendable, CustomStringConvertible, LocalizedError {
    public let what: String
    public let why: String
    public let fix: String
    /// A word for programs, such as "damaged".
    public let code: String

    public init(_ what: String, why: String = "", fix: String = "", code: String = "error") {
        (self.what, self.why, self.fix, self.code) = (what, why, fix, code)
    }

    public var description: String { [what, why, fix].filter { !$0.isEmpty }.joined(separator: "\n  ") }
    public var errorDescription: String? { description }
}

/// The error for a file that is not what it should be.
func damaged(_ what: String, _ why: String = "") -> EdgekitError {
    EdgekitError(what, why: why, fix: "Copy, download or export the bundle again.", code: "damaged")
}
