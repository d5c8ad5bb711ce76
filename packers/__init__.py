"""The packet: its schema, writer, reader and checks. Imports numpy and h5py and nothing heavier."""
