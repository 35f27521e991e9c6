import EdgekitCore
import Foundation
import SwiftUI

/// What the screens show, and what they may ask for.
@available(iOS 18, *)
@MainActor
@Observable
final class AppModel {
    enum State {
        case loading(String, share: Double?)
        case ready(VisionModel)
        case failed(String)
    }

    private(set) var state = State.loading("Loading", share: nil)
    private(set) var text = ""
    private(set) var note = ""
    private(set) var isAnswering = false
    var picture: Picture?
    var question = "What is in the image?"
    private var work: Task<Void, Never>?

    var model: VisionModel? {
        if case .ready(let model) = state { return model }
        return nil
    }

    /// Fetch the bundle where it is not here yet, and load it.
    func load() async {
        do {
            let folder = try await bundle()
            state = .loading("Preparing the model for this device", share: nil)
            state = .ready(try await VisionModel(bundle: folder, runtime: Constants.runtime))
        } catch {
            state = .failed("\(error)")
        }
    }

    private func bundle() async throws -> URL {
        guard let own = Foundation.Bundle.main.url(forResource: Constants.resource, withExtension: nil) else {
            throw EdgekitError("The app holds no bundle.", fix: "Add the folder \(Constants.resource) to the app's resources.")
        }
        guard Constants.downloads else { return own }
        let support = try FileManager.default.url(
            for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let store = try ModelStore(root: support.appendingPathComponent("edgekit"))
        return try await store.bundle(at: own.appendingPathComponent(ModelBundle.model)) { progress in
            Task { @MainActor in
                self.state = .loading("Downloading", share: Double(progress.doneBytes) / Double(max(progress.totalBytes, 1)))
            }
        }
    }

    /// Answer the question; what was asked before is cancelled.
    func ask() {
        guard let model else { return }
        cancel()
        (text, note, isAnswering) = ("", "", true)
        let (question, picture) = (question, picture)
        work = Task {
            do {
                try await show(model.answer(question, picture, maxTokens: 256))
            } catch is CancellationError {
                note = "Cancelled"
            } catch {
                note = "\(error)"
            }
            if !Task.isCancelled { isAnswering = false }
        }
    }

    func cancel() {
        work?.cancel()
        work = nil
        isAnswering = false
    }

    private func show(_ events: AsyncThrowingStream<Event, any Error>) async throws {
        var (waiting, shown) = ("", ContinuousClock.now)
        for try await event in events {
            switch event {
            case .text(let piece):
                waiting += piece
                // Each change of the screen costs time that the answer needs; 20 a second are enough.
                if ContinuousClock.now - shown > .milliseconds(50) {
                    text += waiting
                    (waiting, shown) = ("", ContinuousClock.now)
                }
            case .token: break
            case .done(let answer):
                text = answer.text
                note = Self.note(answer.timings)
            }
        }
    }

    static func note(_ timings: Timings) -> String {
        let speed = timings.tokensPerSecond.map { String(format: "%.1f tokens/s, ", $0) } ?? ""
        return speed + String(format: "first token after %.2f s, %d MB", timings.timeToFirstToken, memoryBytes() >> 20)
    }
}

/// What the system counts against this app's limit: the physical footprint.
func memoryBytes() -> Int {
    #if canImport(Darwin)
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<integer_t>.size)
        let status = withUnsafeMutablePointer(to: &info) {
            $0.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return status == KERN_SUCCESS ? Int(info.phys_footprint) : 0
    #else
        return 0
    #endif
}
