import EdgekitCore
import Foundation
import SwiftUI

/// Speed on this device, after its self-test: what counts is right answers a second.
@available(iOS 18, *)
struct BenchView: View {
    let model: VisionModel
    @State private var lines: [String] = []
    @State private var status = ""
    @State private var file: URL?

    var body: some View {
        List {
            Button("Measure") { Task { await measure() } }
            Text(status)
            ForEach(lines, id: \.self) { Text($0) }
            if let file { ShareLink("Share the result", item: file) }
        }
    }

    private func measure() async {
        do {
            status = "Self-test"
            let report = try await model.selfTest()
            status = "Measuring"
            let result = try await Bench.run(model, report)
            lines = result.answers.map { AppModel.note($0.timings) }
            let place = FileManager.default.temporaryDirectory.appendingPathComponent("edgekit-phone.json")
            try result.json(of: model).write(to: place)
            file = place
            status = report.passed ? "Answers as in Python" : "The self-test failed: \(report.failures.first ?? "")"
        } catch {
            status = "\(error)"
        }
    }
}
