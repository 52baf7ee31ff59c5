"""
memphis_sync at home in other libraries, a module each. They stand on the public names of memphis_sync alone, and load
their library when they are imported: nothing here is part of ``import memphis_sync``.
"""
