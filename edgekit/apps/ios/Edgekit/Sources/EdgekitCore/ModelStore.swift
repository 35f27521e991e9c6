import Foundation

/// How far a download is.
public struct Progress: Sendable, Equatable {
    public let doneBytes: Int
    public let totalBytes: Int
    public let file: String
}

/// Where bytes of an address come from; the system's own client, and in tests another.
public protocol Fetcher: Sendable {
    /// Give each piece of an address from a byte on.
    ///
    /// - Returns: Whether it began at that byte; false where the server gave all of it from the start, and then the
    ///   pieces are those of the whole.
    func fetch(_ url: URL, from start: Int, begin: (_ resumed: Bool) throws -> Void, piece: ([UInt8]) throws -> Void) async throws
}

/// Bundles on this device: downloaded, checked, kept by their hash.
///
///     ROOT/files/SHA256          each file once, whichever bundles have it
///     ROOT/files/SHA256.part     one that is under way; a later download goes on where it stopped
///     ROOT/bundles/SHA256        a bundle by the hash of its model.json, links to those files
public final class ModelStore: Sendable {
    public let root: URL
    private let fetcher: any Fetcher
    private static let spare = 64 << 20
    private static let mostModel = 8 << 20

    /// - Parameters:
    ///   - root: A folder of the app's own; it is left out of backups.
    public init(root: URL, fetcher: any Fetcher = WebFetcher()) throws {
        (self.root, self.fetcher) = (root, fetcher)
        for name in ["files", "bundles"] {
            try FileManager.default.createDirectory(at: root.appendingPathComponent(name), withIntermediateDirectories: true)
        }
        #if canImport(Darwin)
            var values = URLResourceValues()
            values.isExcludedFromBackup = true
            var own = root
            try own.setResourceValues(values)
        #endif
    }

    /// The folder of a bundle, whole and checked; what is missing is fetched.
    ///
    /// - Parameters:
    ///   - model: Address of its app/model.json; a file of the app's own, whose hashes came with the app, or a server's.
    ///   - golden: Whether the files of the self-test are wanted too.
    ///   - progress: Told now and then.
    public func bundle(
        at model: URL, golden: Bool = true, progress: @Sendable (Progress) -> Void = { _ in }
    ) async throws -> URL {
        let raw = try await whole(model)
        let json = try JSON(parsing: raw, source: model.lastPathComponent)
        let files = try ModelBundle.files(json).filter { golden || $0.use != "golden" }
        let folder = root.appendingPathComponent("bundles").appendingPathComponent(SHA256Sum.of(raw))
        try checkRoom(files)
        let total = files.reduce(0) { $0 + $1.bytes }
        var done = 0
        for file in files {
            guard let url = URL(string: file.url, relativeTo: model)?.absoluteURL else {
                throw damaged("model.json: \(file.url) is no address.")
            }
            let before = done
            try await fetch(url, file) { progress(Progress(doneBytes: before + $0, totalBytes: total, file: file.path)) }
            try link(file, into: folder)
            done += file.bytes
        }
        progress(Progress(doneBytes: total, totalBytes: total, file: ""))
        try write(raw, to: folder.appendingPathComponent(ModelBundle.model))
        return folder
    }

    /// Remove all bundles but one, and the files that no bundle has any more.
    public func removeAll(but folder: URL? = nil) throws {
        let manager = FileManager.default
        let bundles = root.appendingPathComponent("bundles")
        for name in try manager.contentsOfDirectory(atPath: bundles.path) where name != folder?.lastPathComponent {
            try manager.removeItem(at: bundles.appendingPathComponent(name))
        }
        let kept = try folder.map { try ModelBundle.files(readJSON($0.appendingPathComponent(ModelBundle.model))).map(\.sha256) } ?? []
        let files = root.appendingPathComponent("files")
        for name in try manager.contentsOfDirectory(atPath: files.path) where !kept.contains(name) {
            try manager.removeItem(at: files.appendingPathComponent(name))
        }
    }

    private func place(_ file: ModelBundle.File) -> URL { root.appendingPathComponent("files").appendingPathComponent(file.sha256) }

    private func whole(_ url: URL) async throws -> [UInt8] {
        if url.isFileURL { return try readBytes(url) }
        var found: [UInt8] = []
        try await fetcher.fetch(url, from: 0) { _ in } piece: { piece in
            found += piece
            guard found.count <= Self.mostModel else { throw damaged("\(url.lastPathComponent) is larger than any model.json.") }
        }
        return found
    }

    /// Free space, before anything is fetched.
    private func checkRoom(_ files: [ModelBundle.File]) throws {
        let missing = files.filter { !FileManager.default.fileExists(atPath: place($0).path) }
        let wanted = missing.reduce(0) { $0 + $1.bytes - size(of: place($1).appendingPathExtension("part")) }
        guard wanted > 0 else { return }
        let free = try FileManager.default.attributesOfFileSystem(forPath: root.path)[.systemFreeSize] as? NSNumber
        if let free, free.intValue < wanted + Self.spare {
            throw EdgekitError(
                "The model needs \(wanted >> 20) MB, and \(free.intValue >> 20) MB are free.",
                fix: "Make room on this device, and try again.", code: "space")
        }
    }

    private func size(of path: URL) -> Int {
        ((try? FileManager.default.attributesOfItem(atPath: path.path))?[.size] as? NSNumber)?.intValue ?? 0
    }

    private func fetch(_ url: URL, _ file: ModelBundle.File, _ progress: (Int) -> Void) async throws {
        let (path, part) = (place(file), place(file).appendingPathExtension("part"))
        if size(of: path) == file.bytes, FileManager.default.fileExists(atPath: path.path) { return progress(file.bytes) }
        if size(of: part) > file.bytes { try? FileManager.default.removeItem(at: part) }
        if size(of: part) < file.bytes || file.bytes == 0 { try await receive(url, file, part, progress) }
        guard size(of: part) == file.bytes, try sum(part) == file.sha256 else {
            try? FileManager.default.removeItem(at: part)
            throw damaged("\(file.path) is not the file that was exported.", "Its SHA-256 differs from model.json's.")
        }
        try FileManager.default.moveItem(at: part, to: path)
    }

    private func receive(_ url: URL, _ file: ModelBundle.File, _ part: URL, _ progress: (Int) -> Void) async throws {
        if !FileManager.default.fileExists(atPath: part.path) { _ = FileManager.default.createFile(atPath: part.path, contents: nil) }
        let handle = try FileHandle(forWritingTo: part)
        defer { try? handle.close() }
        var done = try Int(handle.seekToEnd())
        try await fetcher.fetch(url, from: done) { resumed in
            if resumed { return }
            try handle.truncate(atOffset: 0)
            done = 0
        } piece: { piece in
            done += piece.count
            guard done <= file.bytes else { throw damaged("\(file.path) is longer than model.json says.") }
            try handle.write(contentsOf: piece)
            progress(done)
        }
    }

    private func sum(_ path: URL) throws -> String {
        let handle = try FileHandle(forReadingFrom: path)
        defer { try? handle.close() }
        var sum = SHA256Sum()
        while let piece = try handle.read(upToCount: 1 << 20), !piece.isEmpty { piece.withUnsafeBytes { sum.update($0) } }
        return sum.finish()
    }

    private func link(_ file: ModelBundle.File, into folder: URL) throws {
        let target = folder.appendingPathComponent(file.path)
        if FileManager.default.fileExists(atPath: target.path) { return }
        try FileManager.default.createDirectory(at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
        try FileManager.default.linkItem(at: place(file), to: target)
    }

    private func write(_ bytes: [UInt8], to path: URL) throws {
        try FileManager.default.createDirectory(at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(bytes).write(to: path, options: .atomic)
    }
}
