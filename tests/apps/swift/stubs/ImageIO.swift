// NOT Apple's SDK: only the declarations of Image I/O that PictureImage.swift uses. Nothing runs. An address above a
// declaration is the page that shows it; what has none goes by its name alone: its page was not looked up.
import CoreGraphics
import Foundation

public final class CGImageSource {}
/// https://developer.apple.com/documentation/imageio/cgimagesourcecreatewithdata(_:_:)
public func CGImageSourceCreateWithData(_ data: CFData, _ options: NSDictionary?) -> CGImageSource? { fatalError() }
public func CGImageSourceCreateImageAtIndex(_ source: CGImageSource, _ index: Int, _ options: NSDictionary?) -> CGImage? { fatalError() }
public func CGImageSourceCopyPropertiesAtIndex(_ source: CGImageSource, _ index: Int, _ options: NSDictionary?) -> NSDictionary? { fatalError() }
public let kCGImagePropertyOrientation: CFString = ""
