import SwiftUI

@available(iOS 18, *)
@main
struct EdgekitApp: App {
    @State private var app = AppModel()

    var body: some Scene {
        WindowGroup {
            content.task { await app.load() }
        }
    }

    @ViewBuilder private var content: some View {
        switch app.state {
        case .loading(let what, let share):
            VStack {
                ProgressView(what, value: share)
            }
            .padding()
        case .failed(let why):
            ScrollView { Text(why).padding() }
        case .ready(let model):
            TabView {
                AskView(app: app).tabItem { Label("Ask", systemImage: "eye") }
                BenchView(model: model).tabItem { Label("Bench", systemImage: "speedometer") }
                SelfTestView(model: model).tabItem { Label("Self-test", systemImage: "checkmark.seal") }
            }
        }
    }
}
