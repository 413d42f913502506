"""The messages between a coordinator and a site, how they are encoded, signed and carried.

messages   one class for each message, as canonical JSON
envelope   a message's bytes, their signature, and one packed vector
signing    Ed25519 over bytes and over statements
codec      a float32 vector as bytes
flower     an envelope as Flower carries it
"""
