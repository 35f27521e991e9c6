#if canImport(ImageIO)
    import CoreGraphics
    import Foundation
    import ImageIO

    extension Picture {
        /// A picture of a file's bytes (PNG, JPEG, HEIC): upright, in sRGB's own numbers, what is transparent laid over
        /// white as Pillow's alpha_composite does it. Nothing is resized here.
        public init(data: Data) throws {
            guard let source = CGImageSourceCreateWithData(data as CFData, nil),
                let image = CGImageSourceCreateImageAtIndex(source, 0, nil)
            else { throw EdgekitError("This is no picture that the system can read.", code: "picture") }
            let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
            let turn = properties?[kCGImagePropertyOrientation] as? Int ?? 1
            try self.init(image: image, orientation: turn)
        }

        /// - Parameters:
        ///   - orientation: EXIF's number, 1 to 8.
        public init(image: CGImage, orientation: Int = 1) throws {
            let (width, height) = (image.width, image.height)
            if let straight = Self.straight(image) {
                self = Picture(width, height, Self.overWhite(straight)).turned(orientation)
                return
            }
            var rgba = [UInt8](repeating: 0, count: width * height * 4)
            // Drawn in the picture's own space where it is RGB, so that no number is changed by a conversion of colours.
            let own = image.colorSpace.flatMap { $0.model == .rgb ? $0 : nil }
            let space = own ?? CGColorSpaceCreateDeviceRGB()
            let layout = CGImageAlphaInfo.premultipliedLast.rawValue | CGBitmapInfo.byteOrder32Big.rawValue
            let drawn = rgba.withUnsafeMutableBytes { bytes -> Bool in
                guard let context = CGContext(
                    data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: width * 4,
                    space: space, bitmapInfo: layout)
                else { return false }
                context.setBlendMode(.copy)
                context.interpolationQuality = .none
                context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
                return true
            }
            guard drawn else { throw EdgekitError("A picture of \(width) x \(height) pixels cannot be drawn.", code: "picture") }
            let plain = Picture(width, height, Self.overWhite(premultiplied: rgba))
            self = plain.turned(orientation)
        }

        /// RGBA of a picture whose colours are not multiplied by their alpha, as a PNG file has it; a context knows the
        /// other kind only, which loses bits.
        private static func straight(_ image: CGImage) -> [UInt8]? {
            guard image.alphaInfo == .last, image.bitsPerComponent == 8, image.bitsPerPixel == 32,
                image.bitmapInfo.intersection(.byteOrderMask).isEmpty, let data = image.dataProvider?.data as Data?
            else { return nil }
            return (0..<image.height).flatMap { row in
                data[row * image.bytesPerRow..<row * image.bytesPerRow + image.width * 4]
            }
        }
    }
#endif

extension Picture {
    /// Red, green, blue of RGBA whose colours are multiplied by their alpha, laid over white.
    static func overWhite(premultiplied rgba: [UInt8]) -> [UInt8] {
        var found = [UInt8](repeating: 0, count: rgba.count / 4 * 3)
        for pixel in 0..<rgba.count / 4 {
            let rest = 255 - Int(rgba[pixel * 4 + 3])
            for channel in 0..<3 { found[pixel * 3 + channel] = UInt8(min(255, Int(rgba[pixel * 4 + channel]) + rest)) }
        }
        return found
    }

    /// Red, green, blue of RGBA laid over white, as Pillow's alpha_composite does it.
    static func overWhite(_ rgba: [UInt8]) -> [UInt8] {
        var found = [UInt8](repeating: 0, count: rgba.count / 4 * 3)
        for pixel in 0..<rgba.count / 4 {
            let alpha = Int(rgba[pixel * 4 + 3])
            for channel in 0..<3 {
                let color = Int(rgba[pixel * 4 + channel])
                let sum = (color * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7)
                found[pixel * 3 + channel] = alpha == 255 ? UInt8(color) : UInt8(((sum >> 8) + sum) >> 15)
            }
        }
        return found
    }

    /// The picture as a person sees it, by EXIF's orientation.
    func turned(_ orientation: Int) -> Picture {
        guard (2...8).contains(orientation) else { return self }
        let swaps = orientation >= 5
        let (wide, high) = swaps ? (height, width) : (width, height)
        var found = [UInt8](repeating: 0, count: rgb.count)
        for y in 0..<high {
            for x in 0..<wide {
                let (column, row): (Int, Int)
                switch orientation {
                case 2: (column, row) = (width - 1 - x, y)
                case 3: (column, row) = (width - 1 - x, height - 1 - y)
                case 4: (column, row) = (x, height - 1 - y)
                case 5: (column, row) = (y, x)
                case 6: (column, row) = (y, height - 1 - x)
                case 7: (column, row) = (width - 1 - y, height - 1 - x)
                default: (column, row) = (width - 1 - y, x)
                }
                let (from, to) = ((row * width + column) * 3, (y * wide + x) * 3)
                for channel in 0..<3 { found[to + channel] = rgb[from + channel] }
            }
        }
        return Picture(wide, high, found)
    }
}
