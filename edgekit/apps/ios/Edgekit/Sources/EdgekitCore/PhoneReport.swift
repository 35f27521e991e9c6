import Foundation

/// Figures taken on a phone, in edgekit's own format edgekit-phone, which `edgekit bench --import` reads.
public struct PhoneReport {
    public var bundle: String
    public var device: String
    public var os: String
    public var app = ""
    public var computeUnits = ""
    public var thermalState = ""
    public var thermalStateAfter = ""
    public var batteryPercent: Double?
    public var lowPowerMode: Bool?
    public var loadSeconds: Double?
    public var peakMemoryBytes: Int?
    /// What told it.
    public var memoryBy = ""
    public var answers: [Answer] = []
    public var selfTest: SelfTestReport?

    /// - Parameters:
    ///   - bundle: SHA-256 of the bundle, as its own `edgekit bench` row names it.
    ///   - device: As its maker calls it, for example iPhone17,1.
    ///   - os: Name and build.
    public init(bundle: String, device: String, os: String) {
        (self.bundle, self.device, self.os) = (bundle, device, os)
    }

    /// - Parameters:
    ///   - model: That was measured.
    public func json(of model: VisionModel) throws -> Data {
        var value: [String: Any] = [
            "format": "edgekit-phone", "schema_version": 2, "bundle": bundle, "name": model.bundle.name,
            "runtime": model.runtime, "target": model.bundle.target, "precision": model.bundle.precision,
            "device": device, "os": os, "compute_units": computeUnits, "thermal_state": thermalState,
            "thermal_state_after": thermalStateAfter, "memory_by": memoryBy, "app": app, "runs": answers.map(run),
        ]
        value["battery_percent"] = batteryPercent
        value["low_power_mode"] = lowPowerMode
        value["load_ms"] = loadSeconds.map { 1000 * $0 }
        value["peak_memory_bytes"] = peakMemoryBytes
        if let selfTest {
            let checked = selfTest.rows.map(\.checked).reduce(0, +)
            value["self_test"] = selfTest.passed ? "passed: \(checked) checks" : "FAILED: \(selfTest.failures.first ?? "nothing checked")"
        }
        return try JSONSerialization.data(withJSONObject: value, options: [.prettyPrinted, .sortedKeys])
    }

    private func run(_ answer: Answer) -> [String: Any] {
        let own = answer.timings
        return [
            "preprocess_ms": 1000 * own.preprocess, "image_encode_ms": 1000 * own.imageEncode, "prefill_ms": 1000 * own.prefill,
            "first_token_ms": 1000 * own.firstToken, "itl_ms": own.steps.map { 1000 * $0 },
            "prompt_tokens": own.promptTokens, "token_ids": answer.ids,
        ]
    }
}
