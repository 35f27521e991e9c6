import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// The system's own client. A part that was fetched is asked for by Range, and counts only where the server says that
/// it gave that part.
public struct WebFetcher: Fetcher {
    private let seconds: Double

    /// - Parameters:
    ///   - seconds: Without a byte, until a download is given up; it goes on there the next time.
    public init(seconds: Double = 60) { self.seconds = seconds }

    public func fetch(
        _ url: URL, from start: Int, begin: (_ resumed: Bool) throws -> Void, piece: ([UInt8]) throws -> Void
    ) async throws {
        var request = URLRequest(url: url, cachePolicy: .reloadIgnoringLocalCacheData, timeoutInterval: seconds)
        // Of a compressed body the bytes would not be counted as the file's.
        request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")
        if start > 0 { request.setValue("bytes=\(start)-", forHTTPHeaderField: "Range") }
        let receiver = Receiver()
        let session = URLSession(configuration: .ephemeral, delegate: receiver, delegateQueue: nil)
        defer { session.invalidateAndCancel() }
        let task = session.dataTask(with: request)
        try await withTaskCancellationHandler {
            for try await event in receiver.events(of: task) {
                switch event {
                case .began(let response): try begin(Self.resumed(response, url, start))
                case .piece(let bytes): try piece(bytes)
                }
            }
        } onCancel: {
            task.cancel()
        }
        try Task.checkCancellation()
    }

    /// Whether an answer goes on at `start`.
    private static func resumed(_ response: URLResponse, _ url: URL, _ start: Int) throws -> Bool {
        guard let http = response as? HTTPURLResponse else { return false }  // a file: all of it
        switch http.statusCode {
        case 200: return false
        case 206 where (http.value(forHTTPHeaderField: "Content-Range") ?? "").hasPrefix("bytes \(start)-"): return true
        default:
            throw EdgekitError(
                "\(url.absoluteString) answers with status \(http.statusCode).", fix: "Try again later.", code: "download")
        }
    }
}

/// Events of one download, in order.
private final class Receiver: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    enum Event: Sendable {
        case began(URLResponse)
        case piece([UInt8])
    }
    private var continuation: AsyncThrowingStream<Event, any Error>.Continuation?

    func events(of task: URLSessionDataTask) -> AsyncThrowingStream<Event, any Error> {
        AsyncThrowingStream { continuation in
            self.continuation = continuation
            task.resume()
        }
    }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping (URLSession.ResponseDisposition) -> Void
    ) {
        continuation?.yield(.began(response))
        completionHandler(.allow)
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        continuation?.yield(.piece([UInt8](data)))
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        continuation?.finish(throwing: error)
    }
}
