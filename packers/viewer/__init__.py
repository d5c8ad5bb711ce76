"""What a person sees of packets: pictures, curves and pages. Drawing libraries are imported where they draw."""
