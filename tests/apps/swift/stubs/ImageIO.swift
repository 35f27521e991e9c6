// NOT Apple's SDK: only the declarations of Image I/O that PictureImage.swift uses, by their names there; their pages were not
// looked up. Nothing runs.
import CoreGraphics
import Foundation
public final class CGImageSource {}
public func CGImageSourceCreateWithData(_ data: CFData, _ options: NSDictionary?) -> CGImageSource? { fatalError() }
public func CGImageSourceCreateImageAtIndex(_ source: CGImageSource, _ index: Int, _ options: NSDictionary?) -> CGImage? { fatalError() }
public func CGImageSourceCopyPropertiesAtIndex(_ source: CGImageSource, _ index: Int, _ options: NSDictionary?) -> NSDictionary? { fatalError() }
public let kCGImagePropertyOrientation: CFString = ""
