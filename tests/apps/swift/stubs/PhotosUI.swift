// NOT Apple's SDK: only the declarations of PhotosUI that the sample app uses, by their names there; their pages were not
// looked up. Nothing runs.
import Foundation
import SwiftUI
public struct PhotosPicker: View {
    public init(_ title: String, selection: Binding<PhotosPickerItem?>) {}
    public var body: Never { return fatalError() }
}
public struct PhotosPickerItem: Equatable, Sendable {
    public func loadTransferable(type: Data.Type) async throws -> Data? { fatalError() }
}
