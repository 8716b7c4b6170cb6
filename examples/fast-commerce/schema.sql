-- The shop's table. Loading this file again changes nothing.
CREATE TABLE IF NOT EXISTS products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    category TEXT NOT NULL,
    price REAL NOT NULL CHECK (price > 0),
    inventory INTEGER NOT NULL DEFAULT 0 CHECK (inventory >= 0),
    updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);

INSERT OR IGNORE INTO products (id, name, description, category, price, inventory) VALUES
    (1, 'Halden desk lamp', 'Oak foot, linen shade, a dimmer that you turn rather than tap.', 'Lighting', 89, 14),
    (2, 'Pine floor lamp', 'Three legs and a warm cone of light for the corner with the good chair.', 'Lighting', 149, 6),
    (3, 'Sund dining chair', 'Steam-bent beech and a woven seat. Stacks four high.', 'Seating', 175, 22),
    (4, 'Reader''s armchair', 'Deep seat, high back, washable wool cover in sea green.', 'Seating', 620, 3),
    (5, 'Round side table', 'Turned ash, just large enough for a book and a cup.', 'Tables', 118, 17),
    (6, 'Long table', 'Seats eight. The top is one glued board of solid oak, oiled by hand.', 'Tables', 1290, 2),
    (7, 'Stoneware mug', 'Thrown in small batches. Keeps coffee warm for one long chapter.', 'Kitchen', 24, 120),
    (8, 'Kettle, 1.2 litres', 'Brushed steel with a cool handle and a spout that pours where you aim.', 'Kitchen', 64.5, 31),
    (9, 'Terracotta planter', 'Unglazed, so that roots can breathe. With a saucer.', 'Garden', 38, 45);
