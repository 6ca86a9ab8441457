"""What users and rooms are called: profiles and room aliases.

Stands on the rooms, in which users' names are told and to which aliases lead; knows neither HTTP nor SQL.
"""
