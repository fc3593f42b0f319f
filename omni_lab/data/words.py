"""The words of the nano world: what its pictures show, in four languages, and the facts that its questions ask for.

Eighty concepts that all emoji artists draw and that a small model can name. `emoji` is the Unicode (CLDR) short name by
which the picture is found.
"""

from dataclasses import dataclass

LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish"}


@dataclass(frozen=True)
class Concept:
    """One thing that can stand in a picture and be talked about."""

    word: str  # English, one word
    emoji: str  # CLDR short name of its picture
    kind: str  # the class that science questions ask for
    de: str  # with its article: languages bend sentences by it
    fr: str
    es: str

    @property
    def group(self) -> str:
        """Its broad class: animal, food, vehicle or thing."""
        return GROUPS[self.kind]


GROUPS = {
    "mammal": "animal", "bird": "animal", "fish": "animal", "insect": "animal", "reptile": "animal",
    "sea animal": "animal", "fruit": "food", "vegetable": "food", "dish": "food", "vehicle": "vehicle",
    "tool": "thing", "instrument": "thing", "plant": "thing", "sky": "thing", "object": "thing",
}  # fmt: skip

_TABLE = """
dog|dog face|mammal|der Hund|le chien|el perro
cat|cat face|mammal|die Katze|le chat|el gato
mouse|mouse face|mammal|die Maus|la souris|el ratón
rabbit|rabbit face|mammal|der Hase|le lapin|el conejo
fox|fox|mammal|der Fuchs|le renard|el zorro
bear|bear|mammal|der Bär|l'ours|el oso
panda|panda|mammal|der Panda|le panda|el panda
tiger|tiger face|mammal|der Tiger|le tigre|el tigre
lion|lion|mammal|der Löwe|le lion|el león
cow|cow face|mammal|die Kuh|la vache|la vaca
pig|pig face|mammal|das Schwein|le cochon|el cerdo
monkey|monkey face|mammal|der Affe|le singe|el mono
horse|horse face|mammal|das Pferd|le cheval|el caballo
elephant|elephant|mammal|der Elefant|l'éléphant|el elefante
camel|camel|mammal|das Kamel|le chameau|el camello
whale|spouting whale|mammal|der Wal|la baleine|la ballena
dolphin|dolphin|mammal|der Delfin|le dauphin|el delfín
chicken|chicken|bird|das Huhn|la poule|la gallina
penguin|penguin|bird|der Pinguin|le manchot|el pingüino
duck|duck|bird|die Ente|le canard|el pato
owl|owl|bird|die Eule|la chouette|el búho
eagle|eagle|bird|der Adler|l'aigle|el águila
frog|frog|reptile|der Frosch|la grenouille|la rana
turtle|turtle|reptile|die Schildkröte|la tortue|la tortuga
snake|snake|reptile|die Schlange|le serpent|la serpiente
crocodile|crocodile|reptile|das Krokodil|le crocodile|el cocodrilo
fish|tropical fish|fish|der Fisch|le poisson|el pez
shark|shark|fish|der Hai|le requin|el tiburón
octopus|octopus|sea animal|der Krake|la pieuvre|el pulpo
crab|crab|sea animal|die Krabbe|le crabe|el cangrejo
bee|honeybee|insect|die Biene|l'abeille|la abeja
butterfly|butterfly|insect|der Schmetterling|le papillon|la mariposa
ant|ant|insect|die Ameise|la fourmi|la hormiga
apple|red apple|fruit|der Apfel|la pomme|la manzana
banana|banana|fruit|die Banane|la banane|el plátano
grapes|grapes|fruit|die Traube|le raisin|la uva
lemon|lemon|fruit|die Zitrone|le citron|el limón
cherry|cherries|fruit|die Kirsche|la cerise|la cereza
melon|watermelon|fruit|die Melone|la pastèque|la sandía
pineapple|pineapple|fruit|die Ananas|l'ananas|la piña
carrot|carrot|vegetable|die Karotte|la carotte|la zanahoria
tomato|tomato|vegetable|die Tomate|la tomate|el tomate
corn|ear of corn|vegetable|der Mais|le maïs|el maíz
bread|bread|dish|das Brot|le pain|el pan
cheese|cheese wedge|dish|der Käse|le fromage|el queso
pizza|pizza|dish|die Pizza|la pizza|la pizza
burger|hamburger|dish|der Burger|le hamburger|la hamburguesa
cake|birthday cake|dish|der Kuchen|le gâteau|el pastel
cookie|cookie|dish|der Keks|le biscuit|la galleta
car|automobile|vehicle|das Auto|la voiture|el coche
bus|bus|vehicle|der Bus|le bus|el autobús
bicycle|bicycle|vehicle|das Fahrrad|le vélo|la bicicleta
train|locomotive|vehicle|der Zug|le train|el tren
plane|airplane|vehicle|das Flugzeug|l'avion|el avión
rocket|rocket|vehicle|die Rakete|la fusée|el cohete
boat|sailboat|vehicle|das Boot|le bateau|el barco
tractor|tractor|vehicle|der Traktor|le tracteur|el tractor
hammer|hammer|tool|der Hammer|le marteau|el martillo
key|key|tool|der Schlüssel|la clé|la llave
scissors|scissors|tool|die Schere|les ciseaux|la tijera
pencil|pencil|tool|der Stift|le crayon|el lápiz
guitar|guitar|instrument|die Gitarre|la guitare|la guitarra
trumpet|trumpet|instrument|die Trompete|la trompette|la trompeta
violin|violin|instrument|die Geige|le violon|el violín
drum|drum|instrument|die Trommel|le tambour|el tambor
tree|deciduous tree|plant|der Baum|l'arbre|el árbol
cactus|cactus|plant|der Kaktus|le cactus|el cactus
rose|rose|plant|die Rose|la rose|la rosa
tulip|tulip|plant|die Tulpe|la tulipe|el tulipán
mushroom|mushroom|vegetable|der Pilz|le champignon|la seta
sun|sun|sky|die Sonne|le soleil|el sol
moon|crescent moon|sky|der Mond|la lune|la luna
star|star|sky|der Stern|l'étoile|la estrella
cloud|cloud|sky|die Wolke|le nuage|la nube
book|closed book|object|das Buch|le livre|el libro
clock|alarm clock|object|der Wecker|le réveil|el reloj
umbrella|umbrella|object|der Schirm|le parapluie|el paraguas
camera|camera|object|die Kamera|l'appareil|la cámara
crown|crown|object|die Krone|la couronne|la corona
ball|soccer ball|object|der Ball|le ballon|el balón
house|house|object|das Haus|la maison|la casa
gift|wrapped gift|object|das Geschenk|le cadeau|el regalo
"""

CONCEPTS = tuple(Concept(*line.split("|")) for line in _TABLE.strip().splitlines())
BY_WORD = {concept.word: concept for concept in CONCEPTS}

# Their class is nobody's to ask: a frog is no reptile but an amphibian, a mushroom no plant, and a tomato a fruit, too.
DISPUTED = ("frog", "mushroom", "tomato")
LEGS = {
    4: "dog cat mouse rabbit fox bear panda tiger lion cow pig horse elephant camel frog turtle crocodile",
    2: "chicken penguin duck owl eagle",
    0: "snake fish shark whale dolphin",
    6: "bee butterfly ant",
    8: "octopus",
}
LEGS_OF = {word: count for count, words in LEGS.items() for word in words.split()}
HOMES = {
    "water": "whale dolphin fish shark octopus crab",
    "land": "dog cat mouse rabbit fox bear panda tiger lion cow pig horse elephant camel chicken snake ant",
    "air": "owl eagle bee butterfly",
}
HOME_OF = {word: home for home, words in HOMES.items() for word in words.split()}
SAYS = {"dog": "woof", "cat": "meow", "cow": "moo", "pig": "oink", "duck": "quack", "lion": "roar", "bee": "buzz",
        "owl": "hoot", "frog": "croak", "snake": "hiss", "mouse": "squeak", "horse": "neigh"}  # fmt: skip
TASTES = {"apple": "sweet", "banana": "sweet", "grapes": "sweet", "lemon": "sour", "cherry": "sweet", "cake": "sweet",
          "cookie": "sweet", "melon": "sweet", "pineapple": "sweet", "cheese": "salty", "pizza": "salty",
          "bread": "salty"}  # fmt: skip
WHERE_IT_GOES = {"car": "road", "bus": "road", "bicycle": "road", "train": "rails", "plane": "air", "rocket": "space",
                 "boat": "water", "tractor": "field"}  # fmt: skip

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Maria", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tom", "Vera", "Will", "Zoe",
)  # fmt: skip

COLOURS = {
    "red": (214, 46, 46), "green": (52, 158, 70), "blue": (40, 96, 208), "yellow": (244, 208, 40),
    "purple": (134, 62, 176), "orange": (240, 134, 32), "grey": (134, 134, 138), "white": (250, 250, 250),
}  # fmt: skip
COLOUR_WORDS = {
    "red": ("rot", "rouge", "rojo"), "green": ("grün", "vert", "verde"), "blue": ("blau", "bleu", "azul"),
    "yellow": ("gelb", "jaune", "amarillo"), "purple": ("lila", "violet", "morado"),
    "orange": ("orange", "orange", "naranja"), "grey": ("grau", "gris", "gris"), "white": ("weiß", "blanc", "blanco"),
}  # fmt: skip


def with_article(word: str, capital: bool = False) -> str:
    """ "a dog", "an apple", "scissors" (plural words take none)."""
    if word in ("scissors", "grapes", "bread", "cheese", "corn"):
        text = word
    else:
        text = ("an " if word[0] in "aeiou" else "a ") + word
    return text.capitalize() if capital else text


def plural(word: str) -> str:
    """ "dogs", "foxes", "mice": as English has it for the words above."""
    irregular = {
        "mouse": "mice",
        "cherry": "cherries",
        "butterfly": "butterflies",
        "fish": "fish",
        "tomato": "tomatoes",
    }
    if word in irregular:
        return irregular[word]
    if word in ("scissors", "grapes"):
        return word
    return word + ("es" if word.endswith(("s", "x", "sh", "ch")) else "s")
