import EdgekitCore
import SwiftUI

/// Whether this device makes of the bundle's golden vectors what Python made of them at export.
@available(iOS 18, *)
struct SelfTestView: View {
    let model: VisionModel
    @State private var report: SelfTestReport?
    @State private var status = ""

    var body: some View {
        List {
            Button("Run the self-test") { Task { await run() } }
            Text(status)
            ForEach(report?.rows ?? [], id: \.kind) { row in
                VStack(alignment: .leading) {
                    Text("\(row.kind): \(row.checked) checked, \(row.failures.count) differ")
                    ForEach(row.failures + row.ties + row.skipped, id: \.self) { Text($0).font(.caption) }
                }
            }
        }
    }

    private func run() async {
        status = "Running"
        do {
            let found = try await model.selfTest()
            (report, status) = (found, found.passed ? "Passed" : "Failed: this device or its runtime computes otherwise")
        } catch {
            status = "\(error)"
        }
    }
}
