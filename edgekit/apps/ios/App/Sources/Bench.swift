import EdgekitCore
import Foundation
import UIKit

/// Some answers to one question, timed.
@available(iOS 18, *)
enum Bench {
    private static let times = 6
    private static let tokens = 32

    /// A report for `edgekit bench --import`.
    @MainActor
    static func run(_ model: VisionModel, _ selfTest: SelfTestReport) async throws -> PhoneReport {
        let system = UIDevice.current
        var report = PhoneReport(
            bundle: Constants.bundleHash, device: deviceName(), os: "\(system.systemName) \(system.systemVersion)")
        (report.app, report.selfTest) = (Constants.name, selfTest)
        (report.thermalState, report.memoryBy) = (thermalState(), "phys_footprint")
        report.computeUnits = model.runtime
        let picture = try Picture(width: 64, height: 64, rgb: [UInt8](repeating: 128, count: 64 * 64 * 3))
        for number in 0..<times {
            for try await event in model.answer("What is in the image?", picture, maxTokens: tokens) {
                // The first answer warms up.
                if case .done(let answer) = event, number > 0 { report.answers.append(answer) }
            }
            report.peakMemoryBytes = max(report.peakMemoryBytes ?? 0, memoryBytes())
        }
        system.isBatteryMonitoringEnabled = true
        report.batteryPercent = system.batteryLevel >= 0 ? Double(100 * system.batteryLevel) : nil
        #if canImport(Darwin)
            report.lowPowerMode = ProcessInfo.processInfo.isLowPowerModeEnabled
        #endif
        report.thermalStateAfter = thermalState()
        return report
    }

    private static func thermalState() -> String {
        #if canImport(Darwin)
            return ["nominal", "fair", "serious", "critical"][ProcessInfo.processInfo.thermalState.rawValue]
        #else
            return ""
        #endif
    }

    /// The model as its maker calls it, such as iPhone17,1.
    private static func deviceName() -> String {
        var names = utsname()
        uname(&names)
        return withUnsafeBytes(of: &names.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
