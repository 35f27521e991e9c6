import EdgekitCore
import PhotosUI
import SwiftUI
import UIKit

/// A picture, a question, and the answer as it comes.
@available(iOS 18, *)
struct AskView: View {
    @Bindable var app: AppModel
    @State private var chosen: PhotosPickerItem?
    @State private var shown: UIImage?
    @State private var usesCamera = false
    @State private var problem = ""

    var body: some View {
        ScrollView {
            VStack(alignment: .leading, spacing: 16) {
                if let shown { Image(uiImage: shown).resizable().scaledToFit() }
                HStack {
                    PhotosPicker("Library", selection: $chosen)
                    Button("Camera") { usesCamera = true }
                }
                TextField("Question", text: $app.question).textFieldStyle(.roundedBorder)
                if app.isAnswering {
                    Button("Cancel") { app.cancel() }
                } else {
                    Button("Ask") { app.ask() }
                }
                Text(problem)
                Text(app.text)
                Text(app.note).font(.caption)
            }
            .padding()
        }
        .onChange(of: chosen) { Task { await load() } }
        .sheet(isPresented: $usesCamera) { CameraView { take($0) } }
    }

    private func load() async {
        guard let data = try? await chosen?.loadTransferable(type: Data.self) else { return }
        take(data)
    }

    /// Take a picture's file; the library turns it upright and never resizes it by the system's own filters.
    private func take(_ data: Data) {
        do {
            app.picture = try Picture(data: data)
            (shown, problem) = (UIImage(data: data), "")
        } catch {
            problem = "\(error)"
        }
    }
}

/// The system's camera.
@available(iOS 18, *)
struct CameraView: UIViewControllerRepresentable {
    let taken: (Data) -> Void

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let picker = UIImagePickerController()
        picker.sourceType = UIImagePickerController.isSourceTypeAvailable(.camera) ? .camera : .photoLibrary
        picker.delegate = context.coordinator
        return picker
    }

    func updateUIViewController(_ controller: UIImagePickerController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(taken) }

    final class Coordinator: NSObject, UIImagePickerControllerDelegate, UINavigationControllerDelegate {
        private let taken: (Data) -> Void
        init(_ taken: @escaping (Data) -> Void) { self.taken = taken }

        func imagePickerController(
            _ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]
        ) {
            picker.dismiss(animated: true)
            if let image = info[.originalImage] as? UIImage, let data = image.jpegData(compressionQuality: 1) { taken(data) }
        }
    }
}
